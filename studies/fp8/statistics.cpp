#include "studies/fp8/statistics.h"

#include "core/error.h"

#include <cmath>
#include <iterator>

namespace finback::studies {
namespace {

// Quantiles 0.975 of Student's t with 1, 2, … degrees of freedom.
constexpr double kStudent[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622};

}  // namespace

Interval student_interval(std::span<const double> samples) {
  FB_CHECK(samples.size() >= 2 && samples.size() - 2 < std::size(kStudent), "{} samples", samples.size());
  const auto n = static_cast<double>(samples.size());
  double mean = 0, squares = 0;
  for (const double x : samples) mean += x / n;
  for (const double x : samples) squares += (x - mean) * (x - mean);
  return {mean, kStudent[samples.size() - 2] * std::sqrt(squares / (n - 1) / n)};
}

double mean_relative_difference(std::span<const double> a, std::span<const double> b) {
  FB_CHECK(a.size() == b.size() && !a.empty(), "{} and {} values", a.size(), b.size());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) / b[i];
  return sum / static_cast<double>(a.size());
}

}  // namespace finback::studies
