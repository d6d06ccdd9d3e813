// AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019), and the square that clipping needs.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

#include <algorithm>
#include <cmath>

namespace finback::kernels::reference_kernels {
namespace {

// The update takes the fresh moments; m and v are rounded where they are stored.
void adamw(const Context&, ConstMat gradient, const AdamW& o, Mat master, Mat m, Mat v, Mat weight) {
  const std::int64_t n = gradient.cols;
  FB_CHECK(gradient.rows == 1 && master.cols == n && m.cols == n && v.cols == n && weight.cols == n && o.step >= 1,
           "flat arrays of {}, {}, {}, {} and {}, step {}", n, master.cols, m.cols, v.cols, weight.cols, o.step);
  const double correct_m = 1 - std::pow(o.beta1, static_cast<double>(o.step));
  const double correct_v = 1 - std::pow(o.beta2, static_cast<double>(o.step));
  for (std::int64_t i = 0; i < n; ++i) {
    const double g = get(gradient, 0, i) * o.gradient_scale;
    const double new_m = o.beta1 * get(m, 0, i) + (1 - o.beta1) * g;
    const double new_v = o.beta2 * get(v, 0, i) + (1 - o.beta2) * g * g;
    const double old = get(master, 0, i);
    put(m, 0, i, new_m);
    put(v, 0, i, new_v);
    put(master, 0, i, old - o.lr * (new_m / correct_m / (std::sqrt(new_v / correct_v) + o.eps) + o.weight_decay * old));
    put(weight, 0, i, get(master, 0, i));
  }
}

double sum_squares(const Context&, ConstMat x) {
  constexpr std::int64_t kChunk = 65536;
  FB_CHECK(x.rows <= 1, "{} rows; the order of the sum is that of one flat array", x.rows);
  double total = 0;
  for (std::int64_t begin = 0; begin < x.size(); begin += kChunk) {
    double sum = 0;
    for (std::int64_t i = begin; i < std::min(begin + kChunk, x.size()); ++i) sum += get(x, 0, i) * get(x, 0, i);
    total += sum;
  }
  return total;
}

}  // namespace

void add_optimizer(Table& table) {
  table.adamw = adamw;
  table.sum_squares = sum_squares;
}

}  // namespace finback::kernels::reference_kernels
