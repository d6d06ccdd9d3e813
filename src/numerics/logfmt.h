// LogFMT-n, numbers by the logarithm of their magnitude on a grid that spans the tile they share (Zhao et al., "Insights into
// DeepSeek-V3", arXiv 2505.09343, §3.2.1). A code of n bits is a sign and a K of n − 1:
//
//   K = 0: zero,  K >= 1: ± 2^(least + step · (K − 1)),  step = (largest − least) / (2^(n−1) − 2)
//
// where least and largest are the log2 of the tile's least and largest magnitude, zeros left out, and least is raised to
// largest − 32 where the tile spans more, which is about E5's range. A number gets the code whose number is nearest, in linear
// space; a tie goes to the even K.
//
// The publication gives the scheme; that the grid's first code is the least magnitude itself, the clamp and the rounding are taken
// from descriptions of it. Base 2 in place of e changes neither codes nor numbers. Ours besides: subnormal floats count as zeros; the
// format has no NaN, so a tile that holds one, or an infinity, gets the grid `least = NaN`, and all but its zeros decode to NaN.
//
// Logarithms and powers are computed by the operations below, each rounded to f32, never fused: so every backend finds the same bits.
#pragma once

#include "numerics/small_float.h"

#include <limits>
#include <numbers>

namespace finback::numerics {

// log2(m · 2^e) = e + 2/ln 2 · (s + s³/3 + s⁵/5 + …), s = (m − 1) / (m + 1), m between √½ and √2: |s| < 0.172.
inline constexpr float kLog2Series[] = {static_cast<float>(2 / std::numbers::ln2), static_cast<float>(2 / std::numbers::ln2 / 3),
                                        static_cast<float>(2 / std::numbers::ln2 / 5), static_cast<float>(2 / std::numbers::ln2 / 7),
                                        static_cast<float>(2 / std::numbers::ln2 / 9)};
inline constexpr std::uint32_t kSqrtHalf = 0x3f3504f3;
// 2^r = Σ (r ln 2)^k / k!, |r| <= ½.
constexpr float power_coefficient(int k) {
  double c = 1;
  for (int i = 1; i <= k; ++i) c *= std::numbers::ln2 / i;
  return static_cast<float>(c);
}
inline constexpr int kPowerTerms = 8;
inline constexpr float kNearest = 0x1.8p23f;  // added and taken off: leaves the nearest integer, ties to even

// Of a normal x > 0; within 2^-22 · max(1, |log2 x|).
inline float log2_by_series(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto exponent = static_cast<std::int32_t>(bits - kSqrtHalf) >> 23;
  const float m = std::bit_cast<float>(bits - (static_cast<std::uint32_t>(exponent) << 23));
  const float s = (m - 1) / (m + 1), z = s * s;
  float sum = kLog2Series[4];
  for (int k = 3; k >= 0; --k) {
    sum = sum * z;
    sum = sum + kLog2Series[k];
  }
  sum = sum * s;
  return static_cast<float>(exponent) + sum;
}

// 2^t for t between -126 and 128, at most the largest float; relative error below 2^-22.
inline float power_by_series(float t) {
  const float n = (t + kNearest) - kNearest, r = t - n;
  float sum = power_coefficient(kPowerTerms - 1);
  for (int k = kPowerTerms - 2; k >= 0; --k) {
    sum = sum * r;
    sum = sum + power_coefficient(k);
  }
  const int exponent = static_cast<int>(n), half = exponent >> 1;
  const float power = sum * power_of_two(half) * power_of_two(exponent - half);
  return power < std::numeric_limits<float>::max() ? power : std::numeric_limits<float>::max();
}

// What a tile's codes are on.
struct LogGrid {
  float least = 0, step = 0, inverse_step = 0;
  int levels = 0;  // the largest K

  LogGrid() = default;
  // As it is stored; inverse_step is 0 for a grid of one number.
  LogGrid(float least_log, float log_step, int bits)
      : least(least_log), step(log_step), inverse_step(log_step > 0 ? 1 / log_step : 0), levels((1 << (bits - 1)) - 1) {}
  // Of a tile whose least and largest magnitudes, zeros left out, are these (both normal).
  static LogGrid spanning(float smallest, float largest, int bits) {
    const float top = log2_by_series(largest), bottom = log2_by_series(smallest), floor = top - 32;
    const float start = bottom > floor ? bottom : floor;
    return {start, (top - start) / static_cast<float>((1 << (bits - 1)) - 2), bits};
  }

  // The magnitude of a K >= 1; NaN on the grid of a tile that held one.
  float level(int k) const {
    if (is_nan(least)) return least;
    const float rise = step * static_cast<float>(k - 1);
    return power_by_series(least + rise);
  }
  // The K of a finite magnitude that is 0 or normal.
  int nearest(float magnitude) const {
    if (magnitude == 0) return 0;
    const float position = (log2_by_series(magnitude) - least) * inverse_step;  // of level 1: 0
    int below = position < 0 ? 0 : static_cast<int>(position < static_cast<float>(levels) ? position : static_cast<float>(levels)) + 1;
    if (below > levels - 1) below = levels - 1;
    const float low = below == 0 ? 0 : level(below) * 0.5f, tie = low + level(below + 1) * 0.5f;
    return magnitude > tie || (magnitude == tie && below % 2 == 1) ? below + 1 : below;
  }
};

}  // namespace finback::numerics
