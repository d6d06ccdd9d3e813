// What stands between a bad step and the weights: spikes of loss and gradient norm, told by their distance from a moving mean.
// Its numbers are part of a checkpoint, so a resumed run judges as the uninterrupted one would.
#pragma once

#include <cstdint>

namespace finback::train {

// Exponentially weighted mean and variance of a series over about `window` values.
struct MovingMoments {
  std::int64_t count = 0;
  double mean = 0, variance = 0;

  // Standard deviations of x above the mean; 0 before the series is `window` / 2 values long.
  double zscore(double x, std::int64_t window) const;
  // Takes x in; what lies beyond `cap` deviations counts as lying there, so that one spike does not hide the next and a lasting
  // change of level is accepted in time.
  void add(double x, std::int64_t window, double cap);
};

struct SpikeGuard {
  MovingMoments loss, norm;
};

}  // namespace finback::train
