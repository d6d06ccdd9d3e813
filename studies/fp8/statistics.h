// What few numbers say about a mean.
#pragma once

#include <span>

namespace finback::studies {

struct Interval {
  double mean = 0, half_width = 0;  // mean ± half_width
  double low() const { return mean - half_width; }
  double high() const { return mean + half_width; }
};

// The mean of independent samples of one normal distribution, with its two-sided 95 % interval after Student. 2 to 10 samples.
Interval student_interval(std::span<const double> samples);

// The mean of (a[i] − b[i]) / b[i]. As many of both, at least one; b is not 0.
double mean_relative_difference(std::span<const double> a, std::span<const double> b);

}  // namespace finback::studies
