#include "train/guard.h"

#include <algorithm>
#include <cmath>

namespace finback::train {
namespace {

// A series that hardly moves has no meaningful deviation; a hundredth of its mean is the least that counts.
double deviation(const MovingMoments& m) { return std::max(std::sqrt(m.variance), 0.01 * std::abs(m.mean)); }

}  // namespace

double MovingMoments::zscore(double x, std::int64_t window) const {
  if (count < window / 2) return 0;
  const double d = deviation(*this);
  return d > 0 ? (x - mean) / d : 0;
}

void MovingMoments::add(double x, std::int64_t window, double cap) {
  if (count >= window / 2 && cap > 0) x = std::min(x, mean + cap * deviation(*this));
  ++count;
  const double rate = std::max(1.0 / static_cast<double>(count), 2.0 / static_cast<double>(window + 1));
  const double off = x - mean;
  mean += rate * off;
  variance = (1 - rate) * (variance + rate * off * off);
}

}  // namespace finback::train
