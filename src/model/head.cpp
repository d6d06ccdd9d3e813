#include "model/head.h"

#include "model/linear.h"

#include <algorithm>

namespace finback::model {
namespace {

using core::ConstMat;
using core::Mat;

// Logits at a time: small enough to stay in cache between the product and the softmax.
std::int64_t logit_rows(const ModelConfig& m, std::int64_t tokens) {
  return std::min(tokens, std::max<std::int64_t>(64, (2 << 20) / m.vocab_size));
}
// Rows of one weight gradient: a multiple of that, so that the head's gradient is read and written a few times only.
std::int64_t gradient_rows(const ModelConfig& m, std::int64_t tokens) {
  const std::int64_t rows = logit_rows(m, tokens);
  return std::min(tokens, std::max<std::int64_t>(1, (16 << 20) / m.vocab_size / rows) * rows);
}

}  // namespace

void HeadBuffers::take(core::Arena& work, const ModelConfig& m, const Precision& precision, std::int64_t tokens, bool backward) {
  logits = work.take_mat(precision.accumulator, logit_rows(m, tokens), m.vocab_size);
  if (backward) dlogits = work.take_mat(precision.storage, gradient_rows(m, tokens), m.vocab_size);
  loss_1T = work.take_mat(precision.accumulator, 1, tokens);
  best_1T = work.take_mat(core::DType::i32, 1, tokens);
}

void head_loss(const Run& run, int head, ConstMat h, std::span<const std::int32_t> targets, double scale, const HeadBuffers& b, Mat dh) {
  const core::SpanScope span(run.ctx.spans, "head");
  const bool backward = run.gradients != nullptr;
  const std::int64_t chunk = backward ? b.dlogits.rows : h.rows;
  for (std::int64_t begin = 0; begin < h.rows; begin += chunk) {
    const std::int64_t rows = std::min(chunk, h.rows - begin);
    for (std::int64_t r = 0; r < rows; r += b.logits.rows) {
      const std::int64_t t = begin + r, n = std::min(b.logits.rows, rows - r);
      const Mat logits = b.logits.row_range(0, n);
      linear_forward(run, h.row_range(t, n), head, {}, logits);
      run.k().cross_entropy(run.ctx, logits, targets.subspan(static_cast<std::size_t>(t), static_cast<std::size_t>(n)), scale,
                            b.loss_1T.columns(t, n), b.best_1T.columns(t, n), backward ? b.dlogits.row_range(r, n) : Mat{});
    }
    if (!backward) continue;
    linear_backward_input(run, b.dlogits.row_range(0, rows), head, {}, dh.row_range(begin, rows));
    linear_backward_weight(run, b.dlogits.row_range(0, rows), h.row_range(begin, rows), head);
  }
}

double sum_losses(ConstMat loss, std::span<const std::int32_t> targets, std::int64_t& count) {
  double sum = 0;
  for (std::size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    sum += loss.dtype == core::DType::f64 ? loss.row<double>(0)[t] : static_cast<double>(loss.row<float>(0)[t]);
    ++count;
  }
  return sum;
}

}  // namespace finback::model
