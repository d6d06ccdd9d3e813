// Central differences, for backward functions of the float64 reference.
#pragma once

#include "core/rng.h"
#include "core/tensor.h"

#include <cmath>
#include <cstdint>
#include <vector>

namespace finback::kernels::test {

// Bound for the float64 reference: with step h the truncation is O(h²) = 1e-10 of the third derivative, and the loss's own
// rounding gives 1e-16 / h = 1e-11.
constexpr double kGradientError = 1e-6, kGradientStep = 1e-5;

inline std::vector<double> normals(std::int64_t n, std::uint32_t substream) {
  const core::Rng rng(1, core::Stream::test, substream);
  std::vector<double> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = rng.normal(i);
  return x;
}

inline core::Mat view(std::vector<double>& v, std::int64_t rows, std::int64_t cols) {
  return core::mat(v.data(), core::DType::f64, rows, cols);
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// ‖dx − numeric‖ / ‖numeric‖, where numeric is the derivative of loss() by x, which loss reads.
template <class Loss>
double gradient_error(std::vector<double>& x, const std::vector<double>& dx, Loss&& loss) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double kept = x[i];
    x[i] = kept + kGradientStep;
    const double up = loss();
    x[i] = kept - kGradientStep;
    const double down = loss();
    x[i] = kept;
    const double numeric = (up - down) / (2 * kGradientStep);
    difference += (dx[i] - numeric) * (dx[i] - numeric);
    norm += numeric * numeric;
  }
  return std::sqrt(difference / norm);
}

}  // namespace finback::kernels::test
