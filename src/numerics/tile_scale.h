// The scale that a tile of elements shares, from the largest magnitude in it [V3 §3.3.2]. Every backend computes it with exactly
// these operations, so that codes and scales are the same bits everywhere:
//
//   amax      the largest |x| among the finite elements, as an f32; taken as largest · 2^-126 when it lies between 0 and that, so
//             that neither scale nor inverse leaves the normal floats
//   FP32      scale = amax / largest,  inverse = largest / amax, each rounded once
//   power of  scale = the least power of two with amax <= largest · scale,  inverse = 1 / scale, both exact
//    two
//   amax = 0  scale = inverse = 1
//   code      = the format's nearest to x · inverse, the product rounded to f32 first
//
// `largest` is the largest number of the format that the elements are coded in.
#pragma once

#include "numerics/small_float.h"

namespace finback::numerics {

struct TileScale {
  float scale = 1, inverse = 1;
};

inline TileScale tile_scale(float amax, float largest, bool power_of_two_scale) {
  if (amax == 0) return {};
  const float least = largest * 0x1p-126f;
  if (amax < least) amax = least;
  if (!power_of_two_scale) return {amax / largest, largest / amax};
  const auto a = std::bit_cast<std::uint32_t>(amax), of = std::bit_cast<std::uint32_t>(largest);
  const int exponent = static_cast<int>(a >> 23) - static_cast<int>(of >> 23) + ((a & 0x7fffff) > (of & 0x7fffff) ? 1 : 0);
  return {power_of_two(exponent), power_of_two(-exponent)};
}

}  // namespace finback::numerics
