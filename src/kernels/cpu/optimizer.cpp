// AdamW and the sum of squares, as in kernels/reference/optimizer.cpp. Both are bound by memory.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

#include <math.h>

namespace finback::kernels::FB_ISA {
namespace {

struct Coefficients {
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float lr_over_correct_m, inverse_correct_v, eps, lr_times_decay, gradient_scale;
};

template <class Moment, class Weight>
void update(const float* gradient, const Coefficients& c, float* master, Moment* m, Moment* v, Weight* weight, int64_t n) {
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    const vf g = load(gradient + i, lanes) * c.gradient_scale;
    const vf new_m = c.beta1 * load(m + i, lanes) + c.one_minus_beta1 * g;
    const vf new_v = c.beta2 * load(v + i, lanes) + c.one_minus_beta2 * g * g;
    const vf old = load(master + i, lanes);
    const vf step = c.lr_over_correct_m * new_m / (vsqrt(new_v * c.inverse_correct_v) + c.eps);
    const vf fresh = old - (step + c.lr_times_decay * old);
    store(m + i, new_m, lanes);
    store(v + i, new_v, lanes);
    store(master + i, fresh, lanes);
    store(weight + i, fresh, lanes);
  });
}

template <class Moment, class Weight>
void adamw_as(const Context& ctx, ConstMat gradient, const Coefficients& c, Mat master, Mat m, Mat v, Mat weight) {
  for_ranges(ctx.team, {gradient.cols, kTaskElements}, [&](Range r, int) {
    update(gradient.row<float>(0) + r.begin, c, master.row<float>(0) + r.begin, m.row<Moment>(0) + r.begin, v.row<Moment>(0) + r.begin,
           weight.row<Weight>(0) + r.begin, r.end - r.begin);
  });
}

void adamw(const Context& ctx, ConstMat gradient, const AdamW& o, Mat master, Mat m, Mat v, Mat weight) {
  const bool m16 = m.dtype == DType::bf16, w16 = weight.dtype == DType::bf16;
  if (master.dtype != DType::f32 || (!w16 && weight.dtype != DType::f32)) return reference().adamw(ctx, gradient, o, master, m, v, weight);
  const double step = static_cast<double>(o.step);
  const double correct_m = 1 - ::pow(o.beta1, step), correct_v = 1 - ::pow(o.beta2, step);
  const Coefficients c{static_cast<float>(o.beta1),     static_cast<float>(1 - o.beta1),           static_cast<float>(o.beta2),
                       static_cast<float>(1 - o.beta2), static_cast<float>(o.lr / correct_m),      static_cast<float>(1 / correct_v),
                       static_cast<float>(o.eps),       static_cast<float>(o.lr * o.weight_decay), static_cast<float>(o.gradient_scale)};
  if (m16)
    w16 ? adamw_as<uint16_t, uint16_t>(ctx, gradient, c, master, m, v, weight)
        : adamw_as<uint16_t, float>(ctx, gradient, c, master, m, v, weight);
  else
    w16 ? adamw_as<float, uint16_t>(ctx, gradient, c, master, m, v, weight)
        : adamw_as<float, float>(ctx, gradient, c, master, m, v, weight);
}

typedef double vd __attribute__((vector_size(64)));
typedef float vf_half __attribute__((vector_size(32)));

// Even vectors are added to one sum, odd ones to another, so that the additions overlap.
template <class T>
double squares(const T* x, int64_t n) {
  vd low[2] = {}, high[2] = {};
  const auto add = [&](int64_t i, int64_t lanes, int sum) {
    const vf f = load(x + i, lanes);
    const vd a = __builtin_convertvector(__builtin_shufflevector(f, f, 0, 1, 2, 3, 4, 5, 6, 7), vd);
    const vd b = __builtin_convertvector(__builtin_shufflevector(f, f, 8, 9, 10, 11, 12, 13, 14, 15), vd);
    low[sum] += a * a;
    high[sum] += b * b;
  };
  constexpr int64_t kAhead = 2048 / int64_t{sizeof(T)};  // further than the hardware looks
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    for (int64_t line = 0; line < 2 * kLanes; line += 64 / int64_t{sizeof(T)}) __builtin_prefetch(x + i + kAhead + line);
    add(i, kLanes, 0);
    add(i + kLanes, kLanes, 1);
  }
  if (i < n) add(i, n - i, 0);
  if (i + kLanes < n) add(i + kLanes, n - i - kLanes, 1);
  const vd all = (low[0] + low[1]) + (high[0] + high[1]);
  double total = 0;
  for (int lane = 0; lane < 8; ++lane) total += all[lane];
  return total;
}

template <class T>
double sum_squares_as(const Context& ctx, ConstMat x) {
  const Split split{x.size(), 65536};
  const core::ArenaScope scope(ctx.scratch);
  double* partial = ctx.scratch.take_array<double>(split.tasks());
  for_ranges(ctx.team, split, [&](Range r, int) { partial[r.begin / split.per_task] = squares(x.row<T>(0) + r.begin, r.end - r.begin); });
  double total = 0;
  for (int64_t i = 0; i < split.tasks(); ++i) total += partial[i];
  return total;
}

double sum_squares(const Context& ctx, ConstMat x) {
  if (x.dtype == DType::bf16) return sum_squares_as<uint16_t>(ctx, x);
  if (x.dtype == DType::f32) return sum_squares_as<float>(ctx, x);
  return reference().sum_squares(ctx, x);
}

}  // namespace

void add_optimizer(Table& table) {
  table.adamw = adamw;
  table.sum_squares = sum_squares;
}

}  // namespace finback::kernels::FB_ISA
