#include "infer/sampler.h"

#include "core/error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace finback::infer {
namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, -2.0f, 2.5f, 0.0f, 3.0f};

std::vector<double> softmax(double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (const float x : kLogits) sum += p.emplace_back(std::exp(static_cast<double>(x) / temperature));
  for (double& x : p) x /= sum;
  return p;
}

TEST(Sampler, TemperatureZeroIsTheMostLikelyTokenAndTheLowestIdOfEquals) { EXPECT_EQ(Sampler({.temperature = 0}).draw(kLogits, 9), 1); }

TEST(Sampler, ADrawDependsOnSeedAndPositionAlone) {
  Sampler a({.seed = 5}), b({.seed = 5}), c({.seed = 6});
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
    Sampler sampler({.temperature = temperature, .seed = 1});
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
    Sampler sampler({.top_p = top_p, .seed = 2});
    std::vector<int> seen(kLogits.size());
    for (std::uint64_t p = 0; p < 500; ++p) seen[static_cast<std::size_t>(sampler.draw(kLogits, p))] = 1;
    std::vector<int> drawn;
    for (std::size_t i = 0; i < seen.size(); ++i)
      if (seen[i]) drawn.push_back(static_cast<int>(i));
    EXPECT_EQ(drawn, allowed) << top_p;
  }
}

TEST(Sampler, NaNIsNeverDrawn) {
  std::vector<float> logits(4, std::numeric_limits<float>::quiet_NaN());
  logits[2] = -5;
  for (std::uint64_t p = 0; p < 50; ++p) {
    EXPECT_EQ(Sampler({.seed = 1}).draw(logits, p), 2);
    EXPECT_EQ(Sampler({.top_p = 0.5, .seed = 1}).draw(logits, p), 2);
  }
}

TEST(Sampler, OptionsOutOfRangeAreRefused) {
  for (const SampleOptions& o : {SampleOptions{.temperature = -1}, {.temperature = NAN}, {.top_p = 0}, {.top_p = 1.5}, {.top_p = NAN}})
    EXPECT_THROW(check(o), core::Error);
}

}  // namespace
}  // namespace finback::infer
