// LogFMT's logarithm and power, every code of several grids, every tie and its neighbours.
#include "numerics/logfmt.h"

#include "core/rng.h"

#include <gtest/gtest.h>

#include <cmath>

namespace finback::numerics {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(LogFmt, TheSeriesAreAsExactAsTheySay) {
  for (int e = -126; e < 128; ++e)
    for (int i = 0; i < 4096; ++i) {
      const float x = std::ldexp(1 + static_cast<float>(i) / 4096, e);
      const double want = std::log2(static_cast<double>(x));
      ASSERT_LE(std::abs(static_cast<double>(log2_by_series(x)) - want), 0x1p-22 * std::max(1.0, std::abs(want))) << x;
    }
  for (float t = -126; t < 127.99f; t += 0x1p-9f) {
    const double want = std::exp2(static_cast<double>(t));
    ASSERT_LE(std::abs(static_cast<double>(power_by_series(t)) - want), 0x1p-22 * want) << t;
  }
  EXPECT_EQ(log2_by_series(1), 0);
  EXPECT_EQ(power_by_series(0), 1);
  EXPECT_EQ(power_by_series(-126), 0x1p-126f);
  EXPECT_EQ(power_by_series(128), std::numeric_limits<float>::max());
}

struct Span {
  float smallest, largest;
};
// From a narrow tile to one that is clamped, and the ends of f32.
constexpr Span kSpans[] = {{0.9f, 1.1f}, {0.01f, 3}, {1e-6f, 5}, {1e-20f, 1}, {0x1p-126f, 0x1p-100f}, {1e20f, 3e38f}};

TEST(LogFmt, EveryCodeComesBackAndEveryTieGoesToTheEvenOne) {
  for (const int bits : {8, 10})
    for (const Span& s : kSpans) {
      const LogGrid grid = LogGrid::spanning(s.smallest, s.largest, bits);
      ASSERT_EQ(grid.levels, (1 << (bits - 1)) - 1);
      for (int k = 0; k <= grid.levels; ++k) {
        const float here = k == 0 ? 0 : grid.level(k);
        EXPECT_EQ(grid.nearest(here), k) << s.smallest;
        if (k == grid.levels) break;
        const float above = grid.level(k + 1), tie = here * 0.5f + above * 0.5f;
        ASSERT_LT(here, tie);
        ASSERT_LT(tie, above);
        if (tie < 0x1p-126f) continue;  // half the least normal number
        EXPECT_EQ(grid.nearest(tie), k % 2 ? k + 1 : k) << s.smallest;
        EXPECT_EQ(grid.nearest(std::nextafter(tie, 0.0f)), k) << s.smallest;
        EXPECT_EQ(grid.nearest(std::nextafter(tie, kInf)), k + 1) << s.smallest;
      }
      EXPECT_EQ(grid.nearest(std::numeric_limits<float>::max()), grid.levels);
    }
}

TEST(LogFmt, TheNearestLevelIsTheNearestOfAll) {
  const core::Rng rng(1, core::Stream::test);
  for (const int bits : {8, 10})
    for (const Span& s : kSpans) {
      const LogGrid grid = LogGrid::spanning(s.smallest, s.largest, bits);
      for (std::uint64_t i = 0; i < 300; ++i) {
        const float x = static_cast<float>(s.smallest * std::pow(static_cast<double>(s.largest) / s.smallest, rng.uniform(i)));
        double best = static_cast<double>(x);
        for (int k = 1; k <= grid.levels; ++k) best = std::min(best, std::abs(static_cast<double>(grid.level(k)) - static_cast<double>(x)));
        const int k = grid.nearest(x);
        const double got = std::abs((k ? static_cast<double>(grid.level(k)) : 0) - static_cast<double>(x));
        EXPECT_LE(got, best + 0x1p-23 * static_cast<double>(x)) << x;  // the tie itself is rounded to f32
      }
    }
}

TEST(LogFmt, GridsSpanTheirTileOrTheUpper32Octaves) {
  for (const int bits : {8, 10}) {
    const LogGrid whole = LogGrid::spanning(0.01f, 3, bits);
    EXPECT_NEAR(whole.level(1), 0.01, 1e-8);
    EXPECT_NEAR(whole.level(whole.levels), 3, 1e-5);
    const LogGrid clamped = LogGrid::spanning(1e-20f, 1, bits);
    EXPECT_EQ(clamped.least, -32);
    EXPECT_EQ(clamped.nearest(1e-20f), 0);
    EXPECT_EQ(clamped.nearest(0x1p-32f), 1);
    const LogGrid one = LogGrid::spanning(0.3f, 0.3f, bits);
    EXPECT_EQ(one.step, 0);
    EXPECT_NEAR(one.level(one.nearest(0.3f)), 0.3, 1e-7);
    EXPECT_TRUE(std::isnan(LogGrid(NAN, 0, bits).level(5)));
  }
}

}  // namespace
}  // namespace finback::numerics
