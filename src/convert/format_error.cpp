#include "convert/format_error.h"

#include <algorithm>
#include <cmath>

namespace finback::convert {
namespace {

using numerics::bf16;

// Sixteen sums of each kind, which the compiler keeps in vectors; a float holds the few terms of each exactly enough.
template <class T>
void measure_run(const T* w, const float* decoded, std::int64_t n, FormatError& e) {
  constexpr std::int64_t kLanes = 16;
  float squares[kLanes] = {}, errors[kLanes] = {}, largest[kLanes] = {}, largest_error[kLanes] = {};
  const auto take = [&](std::int64_t i, std::int64_t lane) {
    const float x = static_cast<float>(w[i]), d = decoded[i] - x;
    const float ax = std::abs(x), ad = std::abs(d);
    squares[lane] += x * x;
    errors[lane] += d * d;
    largest[lane] = largest[lane] > ax ? largest[lane] : ax;
    largest_error[lane] = largest_error[lane] > ad ? largest_error[lane] : ad;
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::int64_t lane = 0; lane < kLanes; ++lane) take(i + lane, lane);
  for (; i < n; ++i) take(i, i % kLanes);
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2)
    for (std::int64_t lane = 0; lane < half; ++lane) {
      squares[lane] += squares[lane + half];
      errors[lane] += errors[lane + half];
      largest[lane] = std::max(largest[lane], largest[lane + half]);
      largest_error[lane] = std::max(largest_error[lane], largest_error[lane + half]);
    }
  e.squares += static_cast<double>(squares[0]);
  e.error_squares += static_cast<double>(errors[0]);
  e.largest = std::max(e.largest, static_cast<double>(largest[0]));
  e.largest_error = std::max(e.largest_error, static_cast<double>(largest_error[0]));
}

}  // namespace

void FormatError::measure(const float* weights, const float* decoded, std::int64_t n) { measure_run(weights, decoded, n, *this); }
void FormatError::measure(const bf16* weights, const float* decoded, std::int64_t n) { measure_run(weights, decoded, n, *this); }

void FormatError::add(const FormatError& o) {
  squares += o.squares;
  error_squares += o.error_squares;
  largest = std::max(largest, o.largest);
  largest_error = std::max(largest_error, o.largest_error);
  blocks += o.blocks;
  original_blocks += o.original_blocks;
}

double FormatError::rms() const { return squares > 0 ? std::sqrt(error_squares / squares) : 0; }
double FormatError::max() const { return largest > 0 ? largest_error / largest : 0; }

bool stand_for(const float* decoded, const bf16* w, std::int64_t n) {
  int differ = 0;
  for (std::int64_t i = 0; i < n; ++i) differ |= bf16(decoded[i]).bits ^ w[i].bits;
  return differ == 0;
}

bool stand_for(const float* decoded, const float* w, std::int64_t n) {
  int differ = 0;
  for (std::int64_t i = 0; i < n; ++i) differ |= decoded[i] != w[i] && static_cast<float>(bf16(decoded[i])) != w[i];
  return differ == 0;
}

}  // namespace finback::convert
