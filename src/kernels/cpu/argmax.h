// The place of the highest of n floats, the lowest place on a tie; NaN is never higher than a number (0 when all are NaN).
// Included only by files that are compiled per instruction set.
#pragma once

#include "kernels/cpu/simd.h"

namespace {

inline int64_t argmax(const float* x, int64_t n) {
  const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const float lowest = -__builtin_inff();
  vf best = vf{} + lowest;
  vi place = vi{} + INT32_MAX;
  for (int64_t i = 0; i < n; i += kLanes) {
    const vf v = load(x + i, n - i, lowest);
    const vi higher = v > best;
    best = higher ? v : best;
    place = higher ? lane + static_cast<int32_t>(i) : place;
  }
  place = best == vf{} + horizontal_max(best) ? place : vi{} + INT32_MAX;
  const int32_t at = horizontal(place, [](vi a, vi b) { return a < b ? a : b; });
  if (at < INT32_MAX) return at;
  for (int64_t i = 0; i < n; ++i)  // nothing above −inf: the first that is −inf rather than NaN
    if (x[i] == lowest) return i;
  return 0;
}

}  // namespace
