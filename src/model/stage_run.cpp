#include "model/stage_run.h"

#include <algorithm>
#include <cstring>

namespace finback::model {

using core::ConstMat;
using core::Mat;

StageRun::StageRun(const Run& run, const Pass& pass, const ModelSlabs& slabs, const StageShape& stage, const MicroBatch& batch,
                   Layout& buffers, LossSums& sums)
    : run_(run),
      pass_(pass),
      slabs_(slabs),
      stage_(stage),
      batch_(batch),
      buffers_(buffers),
      sums_(sums),
      depths_(pass.with_mtp ? buffers.mtp.size() : 0) {}

void StageRun::play(StageRun* f, StageRun* b, bool weights) {
  const std::size_t f_steps = f ? f->steps() : 0, b_steps = b ? b->steps() : 0;
  if (f) f->begin_forward();
  if (b) b->begin_backward();
  for (std::size_t step = 0; step < std::max(f_steps, b_steps); ++step) {
    const bool forward = step < f_steps, backward = step < b_steps;
    const std::size_t back = backward ? b->backward_block(step) : 0;
    if (forward) f->before_forward(step);
    if (backward) b->before_backward(back);
    const auto play_forward = [&](std::size_t phase) {
      if (forward) kForwardPhases[phase](f->block(step));
    };
    const auto play_backward = [&](std::size_t phase) {
      if (backward) kBackwardPhases[phase](b->block(back));
    };
    // Each phase that another's exchange waits for stands before one that computes for the other.
    play_backward(0);  // combine: gradients leave
    play_forward(0);   // attention
    play_forward(1);   // dispatch: tokens leave
    play_backward(1);  // experts; their gradients leave
    play_forward(2);   // experts; their outputs leave
    play_backward(2);  // dispatch
    play_backward(3);  // attention
    if (backward && weights) block_backward_weight(b->block(back));
    play_forward(3);  // combine
    if (forward) f->after_forward(step);
    if (backward) b->after_backward(back);
  }
  if (b) b->end_backward();
}

void StageRun::losses() {
  if (!stage_.heads) return;
  main_loss();
  for (std::size_t k = depths_; k-- > 0;) {
    if (run_.recompute()) mtp_norm(k);
    mtp_loss(k);
  }
}

void StageRun::main_forward() {
  begin_forward();
  for (std::size_t i = 0; i < main_blocks(); ++i) {
    block_forward(block(i));
    after_forward(i);
  }
}

void StageRun::backward_weight() {
  for (std::size_t step = 0; step < steps(); ++step) block_backward_weight(block(backward_block(step)));
}

BlockRun StageRun::block(std::size_t i) {
  return {
      run_, layer(i), slabs(i), nullptr, buffers_.blocks[i], run_.gradients ? &buffers_.dblock(i) : nullptr, pass_.scale.sequence_balance};
}

// ---- forward

void StageRun::begin_forward() {
  if (stage_.embeds) run_.k().embedding_forward(run_.ctx, run_.weight(slabs_.embedding), batch_.inputs, buffers_.input_TD);
  if (stage_.heads && main_blocks() == 0) final_norm();
}

void StageRun::before_forward(std::size_t i) {
  if (!is_module(i)) return;
  const std::size_t depth = i - main_blocks();
  MtpActivations& a = buffers_.mtp[depth];
  mtp_shift(batch_.inputs, batch_.targets, batch_.seq_len, static_cast<std::int64_t>(depth) + 1, a);
  mtp_join(run_, slabs_, slabs(i), mtp_hidden(depth), a, buffers_.blocks[i].x_TD);
}

void StageRun::after_forward(std::size_t i) {
  count_routing(i);
  if (is_module(i)) return mtp_norm(i - main_blocks());
  if (stage_.heads && i + 1 == main_blocks()) final_norm();
}

// What MTP module `depth` (from 0) takes as the hidden state: the main model's for the first, the module's before it after.
ConstMat StageRun::mtp_hidden(std::size_t depth) const {
  const bool after_norm = run_.config.mtp_hidden_post_norm;
  if (depth == 0) return after_norm ? buffers_.final_TD : buffers_.output_TD();
  return after_norm ? buffers_.mtp[depth - 1].normed_TD : buffers_.blocks[main_blocks() + depth - 1].out_TD;
}

// The norm after the main blocks, and after module `depth`.
void StageRun::final_norm() {
  run_.k().rms_norm_forward(run_.ctx, buffers_.output_TD(), run_.weight(slabs_.norm), run_.config.rms_norm_eps, buffers_.final_TD);
}
void StageRun::mtp_norm(std::size_t depth) {
  const std::size_t i = main_blocks() + depth;
  run_.k().rms_norm_forward(run_.ctx, buffers_.blocks[i].out_TD, run_.weight(slabs(i).head_norm), run_.config.rms_norm_eps,
                            buffers_.mtp[depth].normed_TD);
}

void StageRun::main_loss() {
  if (run_.recompute()) final_norm();
  head_loss(run_, slabs_.head, buffers_.final_TD, batch_.targets, pass_.scale.main, buffers_.head, buffers_.dfinal_TD);
  sums_.main += sum_losses(buffers_.head.loss_1T, batch_.targets, sums_.main_tokens);
  std::memcpy(buffers_.best_main_1T.data, buffers_.head.best_1T.data, static_cast<std::size_t>(buffers_.best_main_1T.bytes()));
}

void StageRun::mtp_loss(std::size_t depth) {
  const MtpActivations& a = buffers_.mtp[depth];
  head_loss(run_, slabs_.head, a.normed_TD, a.targets, pass_.scale.mtp, buffers_.head, buffers_.dmtp.dnormed_TD);
  sums_.mtp[depth] += sum_losses(buffers_.head.loss_1T, a.targets, sums_.mtp_tokens[depth]);
  count_accepted(depth);
}

void StageRun::count_routing(std::size_t i) {
  if (!run_.config.is_moe_layer(layer(i))) return;
  const BlockActivations& acts = buffers_.blocks[i];
  const auto E = static_cast<std::size_t>(run_.config.n_routed_experts), at = static_cast<std::size_t>(layer(i));
  const std::span<const std::int64_t> offsets = acts.moe.routing.offsets;
  sums_.balance[at] += acts.balance;
  for (std::size_t e = 0; e < E; ++e) sums_.expert_load[at * E + e] += offsets[e + 1] - offsets[e];
}

// The module's guess at position i and the main model's at i + depth + 1 are guesses of the same token.
void StageRun::count_accepted(std::size_t depth) {
  const auto* main = buffers_.best_main_1T.row<std::int32_t>(0);
  const auto* draft = buffers_.head.best_1T.row<std::int32_t>(0);
  const auto& targets = buffers_.mtp[depth].targets;
  for (std::size_t t = 0; t < batch_.inputs.size(); ++t) sums_.mtp_accepted[depth] += targets[t] >= 0 && draft[t] == main[t + depth + 1];
}

// ---- backward. The head's part of it is forward and backward in one, from the last module to the main model.

void StageRun::begin_backward() {
  if (!stage_.heads) return;
  main_loss();
  if (depths_ == 0) main_norm_backward();
  else if (run_.recompute()) mtp_norm(depths_ - 1);
}

void StageRun::before_backward(std::size_t i) {
  if (!is_module(i)) return;
  const std::size_t depth = i - main_blocks();
  const bool carry = depth + 1 < depths_, after_norm = run_.config.mtp_hidden_post_norm;  // carry: another module read its hidden state
  const BlockRun b = block(i);
  const Mat dnormed = buffers_.dmtp.dnormed_TD;
  mtp_loss(depth);
  if (carry && after_norm) run_.k().add(run_.ctx, dnormed, buffers_.dhidden_TD, dnormed);
  norm_backward(dnormed, b.acts.out_TD, b.slabs.head_norm, carry && !after_norm ? ConstMat(buffers_.dhidden_TD) : ConstMat{},
                b.grads->dout_TD);
}

void StageRun::after_backward(std::size_t i) {
  if (!is_module(i)) return;
  const std::size_t depth = i - main_blocks();
  const BlockRun b = block(i);
  MtpActivations& a = buffers_.mtp[depth];
  if (run_.recompute()) depth == 0 ? final_norm() : mtp_norm(depth - 1);  // its hidden state, and what the loss before it reads
  const ConstMat hidden = mtp_hidden(depth);
  mtp_join_backward_input(run_, slabs_, b.slabs, hidden, a, b.grads->dx_TD, buffers_.dmtp, {}, buffers_.dhidden_TD);
  mtp_join_backward_weight(run_, b.slabs, hidden, a, b.grads->dx_TD, buffers_.dmtp);
  pass_.embedding_backward(run_, slabs_.embedding, buffers_.dmtp.dembedding_TD, a.ids, /*mtp=*/true);
  if (depth == 0) main_norm_backward();
}

void StageRun::end_backward() {
  if (stage_.embeds) pass_.embedding_backward(run_, slabs_.embedding, buffers_.dinput_TD(), batch_.inputs, /*mtp=*/false);
}

void StageRun::main_norm_backward() {
  const bool carry = depths_ > 0, after_norm = run_.config.mtp_hidden_post_norm;
  if (carry && after_norm) run_.k().add(run_.ctx, buffers_.dfinal_TD, buffers_.dhidden_TD, buffers_.dfinal_TD);
  norm_backward(buffers_.dfinal_TD, buffers_.output_TD(), slabs_.norm, carry && !after_norm ? ConstMat(buffers_.dhidden_TD) : ConstMat{},
                buffers_.doutput_TD());
}

// From dnormed (gradient after the norm) to dx (before it); `also` is a gradient that reaches x directly.
void StageRun::norm_backward(ConstMat dnormed, ConstMat x, int slab, ConstMat also, Mat dx) {
  run_.k().rms_norm_backward_input(run_.ctx, dnormed, x, run_.weight(slab), run_.config.rms_norm_eps, also, dx);
  run_.k().rms_norm_backward_weight(run_.ctx, dnormed, x, run_.config.rms_norm_eps, run_.gradient(slab));
}

}  // namespace finback::model
