// A tile's scale and its inverse.
#include "numerics/tile_scale.h"

#include "core/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace finback::numerics {
namespace {

constexpr float kLargest[] = {448, 57344, 65024};  // e4m3, e5m2, e5m6
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(TileScale, ScalesAreThePublishedQuotient) {
  for (const float largest : kLargest)
    for (const float amax : {1.0f, 3.14159f, 1e-20f, 1e20f, largest, std::numeric_limits<float>::max()}) {
      const TileScale t = tile_scale(amax, largest, false);
      EXPECT_EQ(t.scale, amax / largest);
      EXPECT_EQ(t.inverse, largest / amax);
    }
}

TEST(TileScale, PowersOfTwoAreTheLeastThatHoldTheTile) {
  const core::Rng rng(1, core::Stream::test);
  for (const float largest : kLargest) {
    const auto expect = [&](float amax) {
      const TileScale t = tile_scale(amax, largest, true);
      int exponent;
      EXPECT_EQ(std::frexp(t.scale, &exponent), 0.5f) << amax;
      EXPECT_LE(amax, static_cast<double>(largest) * static_cast<double>(t.scale)) << amax;
      EXPECT_GT(amax, static_cast<double>(largest) * static_cast<double>(t.scale) / 2) << amax;
      EXPECT_EQ(t.scale * t.inverse, 1.0f) << amax;
      EXPECT_EQ(t.scale, std::exp2(std::ceil(std::log2(static_cast<double>(amax) / static_cast<double>(largest))))) << amax;
    };
    for (std::uint64_t i = 0; i < 2000; ++i) expect(std::exp2(static_cast<float>(200 * rng.uniform(i) - 90)));
    for (int e = -100; e < 100; ++e) {  // just below, at and above a change of scale
      const float edge = std::ldexp(largest, e);
      expect(edge);
      expect(std::nextafter(edge, 0.0f));
      const TileScale above = tile_scale(std::nextafter(edge, kInf), largest, true);
      EXPECT_EQ(above.scale, std::ldexp(1.0f, e + 1));
    }
  }
}

TEST(TileScale, StayNormalForTheSmallestAndTheLargestTiles) {
  for (const float largest : kLargest)
    for (const bool power_of_two : {false, true}) {
      for (const float amax : {0x1p-149f, 0x1p-126f, 0x1p-120f, largest * 0x1p-126f}) {
        const TileScale t = tile_scale(amax, largest, power_of_two);
        EXPECT_EQ(t.scale, 0x1p-126f) << amax;
        EXPECT_EQ(t.inverse, 0x1p126f) << amax;
      }
      const TileScale t = tile_scale(std::numeric_limits<float>::max(), largest, power_of_two);
      EXPECT_TRUE(std::isnormal(t.scale) && std::isnormal(t.inverse));
      EXPECT_EQ(tile_scale(0, largest, power_of_two).scale, 1);
      EXPECT_EQ(tile_scale(0, largest, power_of_two).inverse, 1);
    }
}

}  // namespace
}  // namespace finback::numerics
