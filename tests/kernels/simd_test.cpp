// The vector exponentials of kernels/cpu/simd.h against double precision, over the whole range of floats.
#include "kernels/cpu/simd.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace {

// |got − truth| in units in the last place of the float nearest to the truth.
double error_in_ulp(float got, double truth) {
  const float t = static_cast<float>(truth);
  if (got == t) return 0;  // infinities too
  const float below = std::max(std::abs(t), std::numeric_limits<float>::min());
  return std::abs(got - truth) / (std::nextafter(below, std::numeric_limits<float>::infinity()) - below);
}

TEST(Simd, ExponentialsStayWithinTwoUlpsOfDoublePrecision) {
  double worst_exp = 0, worst_exp2 = 0;
  for (std::uint64_t first = 0; first < (1ull << 32); first += 16 * 4099) {  // a prime step through all bit patterns
    float in[16], e[16], e2[16];
    for (std::uint32_t i = 0; i < 16; ++i) in[i] = std::bit_cast<float>(static_cast<std::uint32_t>(first) + i * 4099);
    store(e, vexp(load(in)));
    store(e2, vexp2(load(in)));
    for (int i = 0; i < 16; ++i) {
      if (std::isnan(in[i])) {
        ASSERT_TRUE(std::isnan(e[i]) && std::isnan(e2[i]));
        continue;
      }
      worst_exp = std::max(worst_exp, error_in_ulp(e[i], std::exp(static_cast<double>(in[i]))));
      worst_exp2 = std::max(worst_exp2, error_in_ulp(e2[i], std::exp2(static_cast<double>(in[i]))));
    }
  }
  EXPECT_LT(worst_exp, 2);
  EXPECT_LT(worst_exp2, 2);
}

TEST(Simd, TheShortExponentialStaysWithinItsErrorAndIsZeroFarBelow) {
  double worst = 0;
  for (std::int32_t i = -140 * 4096; i <= 127 * 4096; i += 16 * 3) {  // through the fractions, whole numbers among them
    float in[16], out[16];
    for (int l = 0; l < 16; ++l) in[l] = static_cast<float>(i + 3 * l) / 4096;
    store(out, vexp2_short(load(in)));
    for (int l = 0; l < 16; ++l) {
      const double truth = std::exp2(static_cast<double>(in[l]));
      if (truth > 0x1p-120) worst = std::max(worst, std::abs(out[l] / truth - 1));
    }
  }
  EXPECT_LT(worst, 2.75e-6);
  EXPECT_GT(worst, 2e-6);
  float out[16];
  for (const float x : {-151.0f, -1e30f, -std::numeric_limits<float>::infinity()}) {
    store(out, vexp2_short(splat(x)));
    EXPECT_EQ(out[3], 0) << x;
  }
  store(out, vexp2_short(splat(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(out[9]));
}

TEST(Simd, ExponentialsOfZeroAndInfinitiesAreExact) {
  const float inf = std::numeric_limits<float>::infinity();
  float out[16];
  store(out, vexp(splat(0)));
  EXPECT_EQ(out[0], 1);
  store(out, vexp(splat(-inf)));
  EXPECT_EQ(out[7], 0);
  store(out, vexp2(splat(inf)));
  EXPECT_EQ(out[15], inf);
}

TEST(Simd, FoldsAllLanes) {
  float x[16];
  for (int i = 0; i < 16; ++i) x[i] = static_cast<float>((i * 7) % 16);
  EXPECT_EQ(horizontal_sum(load(x)), 120);
  EXPECT_EQ(horizontal_max(load(x)), 15);
}

}  // namespace
