// Every code of the narrow formats, every tie between two codes and its neighbours, and what lies beyond the codes.
#include "numerics/bf16.h"
#include "numerics/e4m3.h"
#include "numerics/e5m2.h"
#include "numerics/e5m6.h"
#include "numerics/f16.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace finback::numerics {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// What a format is by its definition: bits of exponent and fraction, its largest finite code, whether it has infinities.
template <class Format>
struct Definition;
template <>
struct Definition<e4m3> {
  static constexpr int kExponent = 4, kFraction = 3;
  static constexpr unsigned kLargest = 0x7e;
  static constexpr bool kInfinities = false;
};
template <>
struct Definition<e5m2> {
  static constexpr int kExponent = 5, kFraction = 2;
  static constexpr unsigned kLargest = 0x7b;
  static constexpr bool kInfinities = true;
};
template <>
struct Definition<e5m6> {
  static constexpr int kExponent = 5, kFraction = 6;
  static constexpr unsigned kLargest = 0x7bf;
  static constexpr bool kInfinities = true;
};

template <class Format>
class SmallFloats : public testing::Test {
 public:
  using D = Definition<Format>;
  static constexpr unsigned kSign = 1u << (D::kExponent + D::kFraction);
  static constexpr int kBias = (1 << (D::kExponent - 1)) - 1;

  static Format code(unsigned bits) { return Format::from_bits(static_cast<decltype(Format::bits)>(bits)); }
  static float number(unsigned bits) { return static_cast<float>(code(bits)); }
  static unsigned nearest(float x) { return Format(x).bits; }
  // By IEEE 754's formula, in double.
  static double defined(unsigned magnitude) {
    const int field = static_cast<int>(magnitude >> D::kFraction);
    const double fraction = std::ldexp(magnitude & ((1u << D::kFraction) - 1), -D::kFraction);
    return field ? std::ldexp(1 + fraction, field - kBias) : std::ldexp(fraction, 1 - kBias);
  }
};
using Formats = testing::Types<e4m3, e5m2, e5m6>;
TYPED_TEST_SUITE(SmallFloats, Formats);

TYPED_TEST(SmallFloats, EveryCodeIsItsNumberAndComesBack) {
  using T = TestFixture;
  for (unsigned c = 0; c <= T::D::kLargest; ++c) {
    EXPECT_EQ(T::number(c), T::defined(c)) << c;
    EXPECT_EQ(T::number(T::kSign | c), -T::defined(c)) << c;
    EXPECT_EQ(std::signbit(T::number(T::kSign | c)), true) << c;
    EXPECT_EQ(T::nearest(T::number(c)), c);
    EXPECT_EQ(T::nearest(T::number(T::kSign | c)), T::kSign | c);
  }
  EXPECT_EQ(T::number(T::D::kLargest), TypeParam::kLargest);
}

TYPED_TEST(SmallFloats, TiesGoToTheEvenCodeAndTheirNeighboursToTheNearest) {
  using T = TestFixture;
  for (unsigned c = 0; c < T::D::kLargest; ++c) {
    const float tie = (T::number(c) + T::number(c + 1)) / 2;  // exact: one bit more than the format's
    const unsigned even = c % 2 ? c + 1 : c;
    for (const unsigned sign : {0u, T::kSign}) {
      const float s = sign ? -1.0f : 1.0f;
      EXPECT_EQ(T::nearest(s * tie), sign | even) << c;
      EXPECT_EQ(T::nearest(s * std::nextafter(tie, 0.0f)), sign | c) << c;
      EXPECT_EQ(T::nearest(s * std::nextafter(tie, kInf)), sign | (c + 1)) << c;
      EXPECT_EQ(T::nearest(s * std::nextafter(T::number(c), kInf)), sign | c) << c;
      EXPECT_EQ(T::nearest(s * std::nextafter(T::number(c + 1), 0.0f)), sign | (c + 1)) << c;
    }
  }
}

TYPED_TEST(SmallFloats, WhatLiesBelowIsZeroOfItsSign) {
  using T = TestFixture;
  const float half = T::number(1) / 2;
  for (const float x : {0.0f, half, half / 2, 0x1p-126f, 0x1p-130f, 0x1p-149f}) {
    EXPECT_EQ(T::nearest(x), 0u) << x;
    EXPECT_EQ(T::nearest(-x), T::kSign) << x;
  }
}

TYPED_TEST(SmallFloats, FiniteNumbersBeyondTheLargestSaturate) {
  using T = TestFixture;
  for (const float x : {std::nextafter(TypeParam::kLargest, kInf), TypeParam::kLargest * 1.03f, TypeParam::kLargest * 1.2f,
                        TypeParam::kLargest * 2, 1e30f, std::numeric_limits<float>::max()}) {
    EXPECT_EQ(T::nearest(x), T::D::kLargest) << x;
    EXPECT_EQ(T::nearest(-x), T::kSign | T::D::kLargest) << x;
  }
}

TYPED_TEST(SmallFloats, InfinitiesAndNansNeverBecomeNumbers) {
  using T = TestFixture;
  for (const unsigned sign : {0u, T::kSign}) {
    const float s = sign ? -1.0f : 1.0f;
    EXPECT_EQ(T::nearest(std::copysign(NAN, s)), sign | TypeParam::kNan);
    EXPECT_EQ(T::nearest(s * kInf), sign | (T::D::kInfinities ? T::D::kLargest + 1 : unsigned{TypeParam::kNan}));
  }
  for (unsigned c = T::D::kLargest + 1; c < T::kSign; ++c)
    for (const unsigned sign : {0u, T::kSign}) {
      const float x = T::number(sign | c);
      if (T::D::kInfinities && c == T::D::kLargest + 1) EXPECT_EQ(x, sign ? -kInf : kInf);
      else EXPECT_TRUE(std::isnan(x)) << c;
      EXPECT_EQ(std::signbit(x), sign != 0) << c;
    }
}

TYPED_TEST(SmallFloats, EveryNumberIsExactAsBf16) {
  using T = TestFixture;
  for (unsigned c = 0; c < 2 * T::kSign; ++c) {
    const float x = T::number(c), y = static_cast<float>(bf16(x));
    EXPECT_TRUE(x == y || (std::isnan(x) && std::isnan(y))) << c;
  }
}

// A binary16 without its last bits is an E5M6 (4 fewer) and an E5M2 (8 fewer): the witness is integer arithmetic on its code.
template <class Format>
void expect_shortened_f16(int dropped, unsigned largest, unsigned infinity, unsigned nan, unsigned sign) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    f16 half;
    half.bits = static_cast<std::uint16_t>(bits);
    const unsigned magnitude = bits & 0x7fff, rest = magnitude & ((1u << dropped) - 1), middle = 1u << (dropped - 1);
    unsigned want = magnitude >> dropped;
    want += rest > middle || (rest == middle && want % 2);
    if (magnitude < 0x7c00) want = std::min(want, largest);
    else want = magnitude == 0x7c00 ? infinity : nan;
    ASSERT_EQ(Format(static_cast<float>(half)).bits, want | (bits & 0x8000 ? sign : 0)) << bits;
  }
}

TEST(E5M6, IsABinary16WithFourBitsFewer) { expect_shortened_f16<e5m6>(4, 0x7bf, 0x7c0, 0x7e0, 0x800); }
TEST(E5M2, IsABinary16WithEightBitsFewer) { expect_shortened_f16<e5m2>(8, 0x7b, 0x7c, 0x7f, 0x80); }

TEST(E5M6, TwoCodesInThreeBytesComeBack) {
  for (unsigned a = 0; a < 0x1000; ++a) {
    const unsigned b = (a * 2741 + 77) & 0xfff;
    std::uint8_t three[3];
    pack_pair(e5m6::from_bits(static_cast<std::uint16_t>(a)), e5m6::from_bits(static_cast<std::uint16_t>(b)), three);
    EXPECT_EQ(three[0] | three[1] << 8 | three[2] << 16, static_cast<int>(a | b << 12));
    EXPECT_EQ(first_of_pair(three).bits, a);
    EXPECT_EQ(second_of_pair(three).bits, b);
  }
}

// The codes that the published checkpoints were written with (OCP 8-bit floating point, table of E4M3).
TEST(E4M3, TheLandmarksAreThoseOfTheStandard) {
  EXPECT_EQ(e4m3(448.0f).bits, 0x7e);
  EXPECT_EQ(e4m3(0x1p-6f).bits, 0x08);
  EXPECT_EQ(e4m3(0x1p-9f).bits, 0x01);
  EXPECT_EQ(e4m3(1.0f).bits, 0x38);
  EXPECT_EQ(e4m3(-1.0f).bits, 0xb8);
  EXPECT_TRUE(std::isnan(static_cast<float>(e4m3::from_bits(0x7f))));
}

}  // namespace
}  // namespace finback::numerics
