#include "infer/sampler.h"

#include "core/error.h"
#include "core/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace finback::infer {
namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, -2.0f, 2.5f, 0.0f, 3.0f};

// One sampler with fixed options at any position.
class Drawer {
 public:
  explicit Drawer(SampleOptions options) : options_(std::move(options)), sampler_(std::ssize(kLogits)) {}
  std::int32_t draw(std::span<const float> logits, std::size_t position) {
    return sampler_.draw(logits, options_, std::span(tokens_).first(position), 0);
  }

 private:
  SampleOptions options_;
  std::vector<std::int32_t> tokens_ = std::vector<std::int32_t>(60000);
  Sampler sampler_;
};

std::vector<double> softmax(double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (const float x : kLogits) sum += p.emplace_back(std::exp(static_cast<double>(x) / temperature));
  for (double& x : p) x /= sum;
  return p;
}

TEST(Sampler, TemperatureZeroIsTheMostLikelyTokenAndTheLowestIdOfEquals) { EXPECT_EQ(Drawer({.temperature = 0}).draw(kLogits, 9), 1); }

TEST(Sampler, ADrawDependsOnSeedAndPositionAlone) {
  Drawer a({.seed = 5}), b({.seed = 5}), c({.seed = 6});
  for (std::uint64_t p = 0; p < 50; ++p) a.draw(kLogits, p);
  int different = 0;
  for (std::uint64_t p = 0; p < 200; ++p) {
    EXPECT_EQ(a.draw(kLogits, p), b.draw(kLogits, p));
    different += a.draw(kLogits, p) != c.draw(kLogits, p);
  }
  EXPECT_GT(different, 50);
}

// Pearson's statistic over 60,000 draws against the softmax; 20.5 is its 99.9 % point for five degrees of freedom.
TEST(Sampler, DrawsFollowTheSoftmax) {
  for (const double temperature : {0.7, 1.0, 2.0}) {
    Drawer sampler({.temperature = temperature, .seed = 1});
    std::vector<double> count(kLogits.size());
    constexpr int n = 60000;
    for (std::uint64_t p = 0; p < n; ++p) ++count[static_cast<std::size_t>(sampler.draw(kLogits, p))];
    const std::vector<double> expected = softmax(temperature);
    double chi2 = 0;
    for (std::size_t i = 0; i < count.size(); ++i) chi2 += std::pow(count[i] - n * expected[i], 2) / (n * expected[i]);
    EXPECT_LT(chi2, 20.5) << temperature;
  }
}

// Probabilities in order: 0.385, 0.385 (ids 1 and 5), 0.233 (3), …: 0.7 is reached by the first two, 0.9 by three.
TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  for (const auto& [top_p, allowed] : std::vector<std::pair<double, std::vector<int>>>{{1e-9, {1}}, {0.6, {1, 5}}, {0.9, {1, 3, 5}}}) {
    Drawer sampler({.top_p = top_p, .seed = 2});
    std::vector<int> seen(kLogits.size());
    for (std::uint64_t p = 0; p < 500; ++p) seen[static_cast<std::size_t>(sampler.draw(kLogits, p))] = 1;
    std::vector<int> drawn;
    for (std::size_t i = 0; i < seen.size(); ++i)
      if (seen[i]) drawn.push_back(static_cast<int>(i));
    EXPECT_EQ(drawn, allowed) << top_p;
  }
}

std::vector<std::int32_t> drawn_of_500(const SampleOptions& options, std::span<const std::int32_t> tokens = {}, std::int64_t prompt = 0) {
  Sampler sampler(6);
  std::vector<int> seen(kLogits.size());
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SampleOptions o = options;
    o.seed = seed;
    seen[static_cast<std::size_t>(sampler.draw(kLogits, o, tokens, prompt))] = 1;
  }
  std::vector<std::int32_t> drawn;
  for (std::size_t i = 0; i < seen.size(); ++i)
    if (seen[i]) drawn.push_back(static_cast<std::int32_t>(i));
  return drawn;
}

TEST(Sampler, TopKAndMinPLeaveTheMostLikely) {
  EXPECT_EQ(drawn_of_500({.top_k = 1}), (std::vector<std::int32_t>{1}));
  EXPECT_EQ(drawn_of_500({.top_k = 3}), (std::vector<std::int32_t>{1, 3, 5}));
  EXPECT_EQ(drawn_of_500({.min_p = 0.6}), (std::vector<std::int32_t>{1, 3, 5}));  // e^-0.5 = 0.607
  EXPECT_EQ(drawn_of_500({.min_p = 0.61}), (std::vector<std::int32_t>{1, 5}));
  EXPECT_EQ(drawn_of_500({.top_p = 0.5, .top_k = 2}), (std::vector<std::int32_t>{1}));  // of the two that top-k leaves
}

TEST(Sampler, PenaltiesAndBiasMoveLogits) {
  const std::vector<std::int32_t> tokens = {1, 5, 5, 3};  // of which two are the prompt
  const auto greedy = [&](SampleOptions o) {
    o.temperature = 0;
    return Sampler(6).draw(kLogits, o, tokens, 2);
  };
  EXPECT_EQ(greedy({}), 1);
  EXPECT_EQ(greedy({.repetition_penalty = 4}), 0);                              // 1 against 3/4, 3/4 and 2.5/4
  EXPECT_EQ(greedy({.presence_penalty = 0.6, .logit_bias = {{1, -0.5f}}}), 1);  // the prompt's token is not punished: 2.5, 1.9, 2.4
  EXPECT_EQ(greedy({.frequency_penalty = -0.2}), 5);
  EXPECT_EQ(greedy({.logit_bias = {{2, 9.0f}}}), 2);
  Sampler again(6);  // nothing is left over from one draw to the next
  again.draw(kLogits, {.repetition_penalty = 4}, tokens, 2);
  EXPECT_EQ(again.draw(kLogits, {.temperature = 0, .presence_penalty = 0.1}, {}, 0), 1);
}

// The draw with its shortcut against the definition: argmax of logit / temperature − log(−log u).
TEST(Sampler, TheDrawIsTheArgmaxOfGumbelNoise) {
  constexpr std::int64_t n = 1000;
  const core::Rng values(9, core::Stream::test);
  std::vector<float> logits(n);
  for (std::size_t i = 0; i < n; ++i) logits[i] = static_cast<float>(3 * values.normal(i));
  Sampler sampler(n);
  for (std::size_t position = 0; position < 300; ++position) {
    const core::Rng rng(4, core::Stream::sample, static_cast<std::uint32_t>(position));
    double highest = -INFINITY;
    std::int32_t want = -1;
    for (std::int32_t i = 0; i < n; ++i) {
      const double noise = -std::log(-std::log(rng.uniform(static_cast<std::uint64_t>(i))));
      const double value = static_cast<double>(logits[static_cast<std::size_t>(i)]) / 0.7 + noise;
      if (value > highest) highest = value, want = i;
    }
    ASSERT_EQ(sampler.draw(logits, {.temperature = 0.7, .seed = 4}, std::vector<std::int32_t>(position), 0), want);
  }
}

TEST(Sampler, NaNIsNeverDrawn) {
  std::vector<float> logits(6, std::numeric_limits<float>::quiet_NaN());
  logits[2] = -5;
  for (std::uint64_t p = 0; p < 50; ++p) {
    EXPECT_EQ(Drawer({.seed = 1}).draw(logits, p), 2);
    EXPECT_EQ(Drawer({.top_p = 0.5, .seed = 1}).draw(logits, p), 2);
  }
}

TEST(Sampler, OptionsOutOfRangeAreRefused) {
  for (const SampleOptions& o : {SampleOptions{.temperature = -1},
                                 {.temperature = NAN},
                                 {.top_p = 0},
                                 {.top_p = 1.5},
                                 {.top_p = NAN},
                                 {.top_k = -1},
                                 {.min_p = 1.1},
                                 {.repetition_penalty = 0},
                                 {.presence_penalty = 3},
                                 {.logit_bias = {{6, 1.0f}}},
                                 {.logit_bias = {{0, NAN}}}})
    EXPECT_THROW(check(o, 6), core::Error);
}

}  // namespace
}  // namespace finback::infer
