#include "comm/sum.h"

#include <algorithm>
#include <cstddef>

namespace finback::comm {
namespace {

template <class X, class Y>
void sum(std::span<const X* const> xs, std::span<Y> y) {
  constexpr std::size_t kRun = 512;  // y may be one of the xs: it is written when all have been read
  Y total[kRun];
  for (std::size_t begin = 0; begin < y.size(); begin += kRun) {
    const std::size_t n = std::min(kRun, y.size() - begin);
    for (std::size_t i = 0; i < n; ++i) total[i] = static_cast<Y>(xs[0][begin + i]);
    for (const X* x : xs.subspan(1))
      for (std::size_t i = 0; i < n; ++i) total[i] += static_cast<Y>(x[begin + i]);
    std::copy_n(total, n, y.data() + begin);
  }
}

}  // namespace

void sum_in_order(std::span<const float* const> xs, std::span<float> y) { sum(xs, y); }
void sum_in_order(std::span<const numerics::bf16* const> xs, std::span<float> y) { sum(xs, y); }
void sum_in_order(std::span<const double* const> xs, std::span<double> y) { sum(xs, y); }
void sum_in_order(std::span<const std::int64_t* const> xs, std::span<std::int64_t> y) { sum(xs, y); }

}  // namespace finback::comm
