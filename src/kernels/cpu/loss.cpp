// Cross entropy, as in kernels/reference/loss.cpp: a row of logits is read three times, from cache after the first.
#include "kernels/cpu/argmax.h"
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

#include <math.h>

namespace finback::kernels::FB_ISA {
namespace {

// The gradient of one row: scale · (softmax − onehot).
template <class T>
void gradient_row(const float* logits, int64_t n, float max, float scale_over_sum, float scale, int64_t target, T* out) {
  for (int64_t i = 0; i < n; i += kLanes) store(out + i, vexp(load(logits + i, n - i) - max) * scale_over_sum, n - i);
  store(out + target, vexp(load(logits + target, 1) - max) * scale_over_sum - scale, 1);
}

template <class T>
void cross_entropy_as(const Context& ctx, ConstMat logits, const int32_t* targets, float scale, Mat loss, Mat best, Mat dlogits) {
  const int64_t n = logits.cols;
  for_ranges(ctx.team, split_rows(logits.rows, n), [&](Range rows, int) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      const float* x = logits.row<float>(t);
      const int64_t target = targets[t];
      if (target != -1) check_index("target", target, n);
      const int64_t highest = argmax(x, n);
      if (best) best.row<int32_t>(0)[t] = static_cast<int32_t>(highest);
      if (target < 0) {
        loss.row<float>(0)[t] = 0;
        if (dlogits) memset(dlogits.row<T>(t), 0, static_cast<size_t>(n) * sizeof(T));
        continue;
      }
      const float max = x[highest];
      const float sum = sum_over(n, [&](int64_t i, int64_t lanes) { return vexp(load(x + i, lanes, -__builtin_inff()) - max); });
      loss.row<float>(0)[t] = logf(sum) + max - x[target];
      if (dlogits) gradient_row(x, n, max, scale / sum, scale, target, dlogits.row<T>(t));
    }
  });
}

void cross_entropy(const Context& ctx, ConstMat logits, std::span<const int32_t> targets, double scale, Mat loss, Mat best, Mat dlogits) {
  const auto s = static_cast<float>(scale);
  if (logits.dtype != DType::f32) reference().cross_entropy(ctx, logits, targets, scale, loss, best, dlogits);
  else if (dlogits && dlogits.dtype == DType::bf16) cross_entropy_as<uint16_t>(ctx, logits, targets.data(), s, loss, best, dlogits);
  else cross_entropy_as<float>(ctx, logits, targets.data(), s, loss, best, dlogits);
}

}  // namespace

void add_loss(Table& table) { table.cross_entropy = cross_entropy; }

}  // namespace finback::kernels::FB_ISA
