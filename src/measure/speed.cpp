#include "measure/speed.h"

#include "core/clock.h"
#include "numerics/bf16.h"

#include <algorithm>
#include <utility>

namespace finback::measure {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Contender repeated(double amount, std::function<void()> call) {
  return [amount, call = std::move(call), last = 0.0](double seconds) mutable {  // last: seconds of a call
    if (last < seconds / 2) call();
    const double begin = core::seconds_now();
    double now = begin;
    std::int64_t calls = 0;
    do {
      call();
      ++calls;
      now = core::seconds_now();
    } while (now < begin + seconds);
    last = (now - begin) / static_cast<double>(calls);
    return amount / last * 1e-9;
  };
}

std::vector<std::vector<double>> in_turn(const std::vector<Contender>& contenders, double burst, double seconds) {
  std::vector<std::vector<double>> rates(contenders.size());
  for (const Contender& c : contenders) c(burst);  // what is measured for the first time touches its memory first
  const double end = core::seconds_now() + seconds * static_cast<double>(contenders.size());
  while (rates[0].size() < 5 || core::seconds_now() < end)
    for (std::size_t c = 0; c < contenders.size(); ++c) rates[c].push_back(contenders[c](burst));
  return rates;
}

void fill(core::Mat m) {
  for (std::int64_t i = 0; i < m.size(); ++i) {
    const float x = static_cast<float>(i % 61 - 30) / 64;
    if (m.dtype == core::DType::bf16) static_cast<numerics::bf16*>(m.data)[i] = numerics::bf16(x);
    else static_cast<float*>(m.data)[i] = x;
  }
}

}  // namespace finback::measure
