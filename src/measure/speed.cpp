#include "measure/speed.h"

#include "core/clock.h"
#include "numerics/bf16.h"

#include <algorithm>
#include <vector>

namespace finback::measure {
namespace {

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

}  // namespace

Speed speed_of(core::Team& team, Rate rate, double flops, double seconds, const std::function<void()>& call) {
  // Calls in bursts of at least two milliseconds, a ceiling of as long after each: both see the same disturbances.
  call();
  const double first = core::seconds_now();
  call();
  const double once = core::seconds_now() - first;
  constexpr double kBurst = 0.002;
  const int burst = static_cast<int>(std::clamp(kBurst / once, 1.0, 1000.0));
  const double window = std::max(kBurst, burst * once);
  std::vector<double> rates, ceilings, shares;
  double before = ceiling_of(team, rate, window);
  const double end = core::seconds_now() + 2 * seconds;
  while (rates.size() < 5 || core::seconds_now() < end) {
    const double begin = core::seconds_now();
    for (int i = 0; i < burst; ++i) call();
    rates.push_back(burst * flops / (core::seconds_now() - begin) * 1e-9);
    const double after = ceiling_of(team, rate, window);
    ceilings.push_back(after);
    shares.push_back(rates.back() / ((before + after) / 2));
    before = after;
  }
  Speed speed;
  speed.repetitions = static_cast<int>(rates.size()) * burst;
  speed.gflops = median(rates);
  speed.best_gflops = *std::max_element(rates.begin(), rates.end());
  speed.ceiling_gflops = median(ceilings);
  speed.share_of_ceiling = median(shares);
  return speed;
}

void fill(core::Mat m) {
  for (std::int64_t i = 0; i < m.size(); ++i) {
    const float x = static_cast<float>(i % 61 - 30) / 64;
    if (m.dtype == core::DType::bf16) static_cast<numerics::bf16*>(m.data)[i] = numerics::bf16(x);
    else static_cast<float*>(m.data)[i] = x;
  }
}

}  // namespace finback::measure
