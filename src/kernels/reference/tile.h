// How the reference twins code the elements of one tile.
#pragma once

#include "kernels/reference/access.h"
#include "numerics/tile_scale.h"

#include <algorithm>
#include <cmath>

namespace finback::kernels::reference_kernels {

// Codes the elements element(r, c) of rows × columns r0 … r1-1, c0 … c1-1 with one scale, which goes to `scale`. True when one of
// them is NaN or infinite.
template <class Code, class Element, class Put>
bool code_tile(std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1, bool power_of_two, Element element, Put put_code,
               float& scale) {
  float amax = 0;
  bool finite = true;
  for (std::int64_t r = r0; r < r1; ++r)
    for (std::int64_t c = c0; c < c1; ++c) {
      const float x = element(r, c);
      if (numerics::is_finite(x)) amax = std::max(amax, std::abs(x));
      else finite = false;
    }
  const numerics::TileScale tile = numerics::tile_scale(amax, Code::kLargest, power_of_two);
  scale = tile.scale;
  for (std::int64_t r = r0; r < r1; ++r)
    for (std::int64_t c = c0; c < c1; ++c) {
      const float x = element(r, c);
      put_code(r, c, Code(numerics::is_finite(x) ? x * tile.inverse : std::copysign(NAN, x)));
    }
  return !finite;
}

}  // namespace finback::kernels::reference_kernels
