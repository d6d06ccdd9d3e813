// The output head and its loss, forward and backward together: logits exist only for a few hundred rows at a time
// (a V3 vocabulary would otherwise need half a megabyte a token).
#pragma once

#include "model/run.h"

namespace finback::model {

struct HeadBuffers {
  core::Mat logits;   // [rows at a time, W], accumulator type
  core::Mat dlogits;  // [rows of one weight gradient, W], storage type; null without backward
  core::Mat loss_1T;  // accumulator type
  core::Mat best_1T;  // i32: the most likely token
  void take(core::Arena& work, const ModelConfig& config, const Precision& precision, std::int64_t tokens, bool backward);
};

// Losses of each row of h (already normalised) against targets (−1: none). With run.gradients: dh and the head's gradient
// of scale · Σ losses.
void head_loss(const Run& run, int head, core::ConstMat h_TD, std::span<const std::int32_t> targets_T, double scale,
               const HeadBuffers& buffers, core::Mat dh_TD);

// Σ of losses of rows with a target, added in order in double; counts them in `count`.
double sum_losses(core::ConstMat loss_1T, std::span<const std::int32_t> targets_T, std::int64_t& count);

}  // namespace finback::model
