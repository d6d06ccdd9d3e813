// Cross entropy, as in kernels/reference/loss.cpp. A row is read from memory once: for its maximum, then from cache for the sum of its
// exponentials, which are kept for the gradient.
#include "kernels/cpu/argmax.h"
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

#include <math.h>

namespace finback::kernels::FB_ISA {
namespace {

template <class T>
void cross_entropy_as(const Context& ctx, ConstMat logits, const int32_t* targets, float scale, Mat loss, Mat best, Mat dlogits) {
  const int64_t n = logits.cols, padded = (n + kLanes - 1) / kLanes * kLanes;
  const core::ArenaScope scope(ctx.scratch);
  float* kept = dlogits ? ctx.scratch.take_array<float>(padded * ctx.team.threads()) : nullptr;
  for_ranges(ctx.team, split_rows(logits.rows, n), [&](Range rows, int thread) {
    float* e = kept + (kept ? padded * thread : 0);
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
      const float sum = sum_over(n, [&](int64_t i, int64_t lanes) {
        const vf v = vexp(load(x + i, lanes, -__builtin_inff()) - max);
        if (kept) store(e + i, v);
        return v;
      });
      loss.row<float>(0)[t] = logf(sum) + max - x[target];
      if (!kept) continue;
      const float scale_over_sum = scale / sum;  // the gradient is scale · (softmax − onehot)
      T* out = dlogits.row<T>(t);
      for_vectors(n, [&](int64_t i, int64_t lanes) { store(out + i, load(e + i) * scale_over_sum, lanes); });
      store(out + target, vf{} + (e[target] * scale_over_sum - scale), 1);
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
