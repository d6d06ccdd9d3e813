// The length that gives the most tokens a second is found, and found again when it is another.
#include "infer/draft_length.h"

#include <gtest/gtest.h>

namespace finback::infer {
namespace {

// Plays `steps` steps of a machine where guess number n costs cost[n] and holds with a probability of `holds` (expected values).
std::int64_t most_played(DraftLength& lengths, const std::vector<double>& seconds, double holds, int steps) {
  std::vector<int> played(seconds.size());
  for (int i = 0; i < steps; ++i) {
    const std::int64_t n = lengths.choose(1);
    ++played[static_cast<std::size_t>(n)];
    double tokens = 0, chance = 1;
    for (std::int64_t k = 0; k <= n; ++k, chance *= holds) tokens += 1000 * chance;
    lengths.observe(1, n, static_cast<std::int64_t>(tokens), seconds[static_cast<std::size_t>(n)]);
  }
  std::int64_t best = 0;
  for (std::size_t n = 1; n < played.size(); ++n)
    if (played[n] > played[static_cast<std::size_t>(best)]) best = static_cast<std::int64_t>(n);
  EXPECT_GT(played[static_cast<std::size_t>(best)], steps * 9 / 10);
  return best;
}

TEST(DraftLength, FindsTheFastest) {
  const std::vector<double> seconds = {1, 1.3, 1.7, 2.2};
  for (const auto& [holds, best] : {std::pair{0.1, 0}, {0.5, 1}, {0.95, 3}}) {
    DraftLength lengths(3);
    EXPECT_EQ(most_played(lengths, seconds, holds, 1000), best) << holds;
  }
}

TEST(DraftLength, FollowsAChange) {
  const std::vector<double> seconds = {1, 1.3, 1.7, 2.2};
  DraftLength lengths(3);
  most_played(lengths, seconds, 0.95, 1000);
  for (int i = 0; i < 2000; ++i) lengths.observe(1, lengths.choose(1), 1000, 2);  // guesses hold no more, and cost
  std::int64_t zero = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::int64_t n = lengths.choose(1);
    zero += n == 0;
    lengths.observe(1, n, 1000, seconds[static_cast<std::size_t>(n)]);
  }
  EXPECT_GT(zero, 600);
}

}  // namespace
}  // namespace finback::infer
