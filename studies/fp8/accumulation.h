// How far a sum of K products of FP8 codes is off when a tensor core of few bits forms it [V3 §3.3.2, §3.5.2]: the reference kernels'
// emulation (numerics/narrow_accumulate.h) beside exact sums of the same codes, so that what quantising costs does not enter.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace finback::studies {

// Of what the elements of both matrices are drawn, independently.
enum class Distribution { normal, uniform, positive_normal, positive_uniform };
std::string_view name_of(Distribution d);

struct AccumulationError {
  std::string distribution;
  std::int64_t rows = 0, k = 0;
  int bits = 0;
  bool promote = false;  // to FP32 at every tile of 128
  // e: errors, r: exact values of the elements of the product, over all of them.
  double largest_to_largest = 0;  // max |e| / max |r|
  double largest_to_rms = 0;      // max |e| / √(mean r²)
  double rms_to_rms = 0;          // √(mean e²) / √(mean r²)
  double mean_relative = 0;       // mean of |e| / |r|
  double largest_relative = 0;    // max of |e| / |r|
  double bias = 0;                // Σ e · sign r / Σ |r|: how much too small (negative) the magnitudes are
};

// x_MK · w_NKᵀ with M = N = rows, E4M3 codes, 1×128 tiles of x and 128×128 blocks of w; the same matrices whatever bits and promote.
// Scales are powers of two: a sum that is not promoted has to take them in before it adds, and so keeps the few bits of a product.
AccumulationError accumulation_error(Distribution distribution, std::int64_t rows, std::int64_t k, int bits, bool promote);

// All that the page shows: every distribution at K = 4096, growing K, and one larger product. Takes a minute.
std::vector<AccumulationError> accumulation_study();

}  // namespace finback::studies
