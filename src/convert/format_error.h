// How far FP8 lies from the weights it was made of.
#pragma once

#include "numerics/bf16.h"

#include <cstdint>
#include <string>

namespace finback::convert {

struct FormatError {
  double squares = 0, error_squares = 0;         // Σ w², Σ (code · scale − w)²
  double largest = 0, largest_error = 0;         // max |w|, max |code · scale − w|
  std::int64_t blocks = 0, original_blocks = 0;  // of 128 × 128; those that took their original scales and codes back, not measured

  void add(const FormatError& other);
  // Adds n <= 128 elements: weights, and what their codes stand for.
  void measure(const float* weights, const float* decoded, std::int64_t n);
  void measure(const numerics::bf16* weights, const float* decoded, std::int64_t n);

  double rms() const;  // of the error over that of the weights
  double max() const;  // largest error over the largest weight
};

struct WeightError {
  std::string name;
  FormatError error;
};

// Whether weights are what these decoded values became in BF16, or, in FP32, in either type.
bool stand_for(const float* decoded, const numerics::bf16* weights, std::int64_t n);
bool stand_for(const float* decoded, const float* weights, std::int64_t n);

}  // namespace finback::convert
