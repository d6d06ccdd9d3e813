#include "core/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

namespace finback::core {
namespace {

using Words4 = std::array<std::uint32_t, 4>;

// Random123's own known answers (tests/kat_vectors, "philox4x32 10"): zeros, ones, and digits of pi.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Words4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, StreamsSubstreamsSeedsAndIndicesDoNotMeet) {
  std::set<std::uint64_t> seen;
  for (const std::uint64_t seed : {0ull, 1ull, 1ull << 32})
    for (const Stream stream : {Stream::init, Stream::sample})
      for (const std::uint32_t substream : {0u, 1u})
        for (const std::uint64_t index : {0ull, 1ull, 1ull << 32}) seen.insert(Rng(seed, stream, substream).bits(index));
  EXPECT_EQ(seen.size(), 36u);
  EXPECT_EQ(Rng(5, Stream::init).bits(9), Rng(5, Stream::init).bits(9));
}

TEST(Rng, UniformIsUniformAndOpen) {
  const Rng rng(1, Stream::test);
  constexpr int kN = 200000;
  double sum = 0, squares = 0;
  std::array<int, 16> bins{};
  for (int i = 0; i < kN; ++i) {
    const double u = rng.uniform(static_cast<std::uint64_t>(i));
    ASSERT_TRUE(u > 0 && u < 1);
    sum += u;
    squares += u * u;
    ++bins[static_cast<std::size_t>(u * 16)];
  }
  // Within five standard errors: of the mean sqrt(1/12 / n), of the second moment sqrt(4/45 / n).
  EXPECT_NEAR(sum / kN, 0.5, 5 * std::sqrt(1.0 / 12 / kN));
  EXPECT_NEAR(squares / kN, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kN));
  double chi2 = 0;
  for (const int b : bins) chi2 += (b - kN / 16.0) * (b - kN / 16.0) / (kN / 16.0);
  EXPECT_LT(chi2, 15 + 5 * std::sqrt(2 * 15.0));
}

TEST(Rng, NormalHasTheMomentsAndTailsOfANormal) {
  const Rng rng(2, Stream::test);
  constexpr int kN = 200000;
  double sum = 0, squares = 0, fourth = 0;
  int beyond2 = 0;
  for (int i = 0; i < kN; ++i) {
    const double x = rng.normal(static_cast<std::uint64_t>(i));
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
    beyond2 += std::abs(x) > 2;
  }
  EXPECT_NEAR(sum / kN, 0, 5 / std::sqrt(kN));
  EXPECT_NEAR(squares / kN, 1, 5 * std::sqrt(2.0 / kN));
  EXPECT_NEAR(fourth / kN, 3, 5 * std::sqrt(96.0 / kN));
  const double p = std::erfc(2 / std::sqrt(2.0));
  EXPECT_NEAR(beyond2 / static_cast<double>(kN), p, 5 * std::sqrt(p * (1 - p) / kN));
}

TEST(Rng, BelowCoversItsRangeEvenly) {
  const Rng rng(3, Stream::test);
  EXPECT_EQ(rng.below(0, 1), 0u);
  std::array<int, 7> counts{};
  for (std::uint64_t i = 0; i < 70000; ++i) ++counts.at(rng.below(i, 7));
  for (const int c : counts) EXPECT_NEAR(c, 10000, 5 * std::sqrt(10000.0));
  std::uint64_t largest = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) largest = std::max(largest, rng.below(i, ~std::uint64_t{0}));
  EXPECT_GT(largest, ~std::uint64_t{0} / 100 * 98);
}

}  // namespace
}  // namespace finback::core
