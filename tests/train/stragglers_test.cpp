#include "train/stragglers.h"

#include <gtest/gtest.h>

namespace finback::train {
namespace {

std::vector<Stragglers::Slow> after_steps(Stragglers& s, const std::vector<RankTime>& times) {
  for (int i = 1; i < Stragglers::kSteps; ++i) EXPECT_TRUE(s.add(times).empty());
  return s.add(times);
}

TEST(Stragglers, AreThoseSlowerThanTheirLike) {
  Stragglers s({0, 0, 0, 1, 1, 1});  // two stages, the second with more to do
  std::vector<RankTime> times(6, {.compute = 1, .waiting = 1, .exchange = 0.5});
  for (std::size_t r = 3; r < 6; ++r) times[r].compute = 2;
  EXPECT_TRUE(after_steps(s, times).empty());
  times[4] = {.compute = 4, .waiting = 0.5, .exchange = 0.5};
  const auto slow = after_steps(s, times);
  ASSERT_EQ(slow.size(), 1u);
  EXPECT_EQ(slow[0].rank, 4);
  EXPECT_DOUBLE_EQ(slow[0].of_median, 2);
  EXPECT_EQ(describe(slow[0], "rank 4 on node7"),
            "rank 4 on node7 computes 2.0 times as long as the others: 80 % of its time in compute, 10 % waiting, 10 % in exchange");
  EXPECT_TRUE(after_steps(s, std::vector<RankTime>(6, {.compute = 1})).empty());  // what was is forgotten
}

TEST(Stragglers, ARankAloneInItsWorkIsComparedWithAll) {
  Stragglers s({0, 1});
  EXPECT_EQ(after_steps(s, {{.compute = 1}, {.compute = 1.6}}).size(), 1u);
  Stragglers one({0});
  EXPECT_TRUE(after_steps(one, {{.compute = 1}}).empty());
}

}  // namespace
}  // namespace finback::train
