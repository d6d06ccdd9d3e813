#include "model/block.h"

namespace finback::model {
namespace {

core::SpanScope span(const BlockRun& b, const char* name) { return core::SpanScope(b.run.ctx.spans, name, b.layer); }

void attention(const BlockRun& b) {
  const auto scope = span(b, "attention");
  if (b.latent) mla_absorbed_forward(b.run, b.slabs, b.acts.x_TD, *b.latent, b.acts.mla, b.acts.mid_TD);
  else mla_forward(b.run, b.slabs, b.acts.x_TD, b.acts.mla, b.acts.mid_TD);
  if (b.moe()) b.acts.balance = moe_choose(b.run, b.slabs, b.acts.mid_TD, b.acts.moe);
}

void dispatch(const BlockRun& b) {
  const auto scope = span(b, "dispatch");
  if (b.moe()) moe_dispatch(b.run, b.layer, b.acts.moe);
}

void dense_norm(const BlockRun& b) {
  b.run.k().rms_norm_forward(b.run.ctx, b.acts.mid_TD, b.run.weight(b.slabs.post_norm), b.run.config.rms_norm_eps, b.acts.h_TD.plain);
  quantise(b.run, b.acts.h_TD);
}

void experts(const BlockRun& b) {
  const auto scope = span(b, "experts");
  if (b.moe()) return moe_experts(b.run, b.slabs, b.layer, b.acts.mid_TD, b.acts.moe, b.acts.out_TD);
  dense_norm(b);
  swiglu_forward(b.run, b.slabs.gate_up, b.slabs.down, b.acts.h_TD, b.acts.mid_TD, b.acts.dense, b.acts.out_TD);
}

void combine(const BlockRun& b) {
  const auto scope = span(b, "combine");
  if (b.moe()) moe_combine(b.run, b.acts.mid_TD, b.acts.moe, b.acts.out_TD);
}

void combine_backward(const BlockRun& b) {
  const auto scope = span(b, "combine_backward");
  if (b.moe()) moe_combine_backward(b.run, b.slabs, b.layer, b.acts.mid_TD, b.acts.moe, b.grads->dout_TD, b.grads->moe);
}

void experts_backward(const BlockRun& b) {
  const auto scope = span(b, "experts_backward");
  if (b.moe()) return moe_experts_backward(b.run, b.slabs, b.layer, b.acts.moe, b.grads->dout_TD, b.grads->moe);
  if (b.run.recompute()) dense_norm(b);
  swiglu_backward_input(b.run, b.slabs.gate_up, b.slabs.down, b.acts.dense, b.grads->dout_TD, b.grads->dense, b.grads->dh_TD);
}

void dispatch_backward(const BlockRun& b) {
  const auto scope = span(b, "dispatch_backward");
  if (b.moe()) moe_dispatch_backward(b.run, b.acts.moe, b.grads->moe);
}

void attention_backward(const BlockRun& b) {
  const auto scope = span(b, "attention_backward");
  BlockGradients& g = *b.grads;
  if (b.moe()) moe_choose_backward(b.run, b.slabs, b.acts.mid_TD, b.acts.moe, b.balance_scale, g.dout_TD, g.moe, g.dmid_TD);
  else
    b.run.k().rms_norm_backward_input(b.run.ctx, g.dh_TD, b.acts.mid_TD, b.run.weight(b.slabs.post_norm), b.run.config.rms_norm_eps,
                                      g.dout_TD, g.dmid_TD);
  mla_backward_input(b.run, b.slabs, b.acts.x_TD, b.acts.mla, g.dmid_TD, g.mla, g.dx_TD);
}

}  // namespace

const std::array<Phase, 4> kForwardPhases{attention, dispatch, experts, combine};
const std::array<Phase, 4> kBackwardPhases{combine_backward, experts_backward, dispatch_backward, attention_backward};

void block_forward(const BlockRun& b) {
  for (const Phase phase : kForwardPhases) phase(b);
}

void block_backward_input(const BlockRun& b) {
  for (const Phase phase : kBackwardPhases) phase(b);
}

void block_backward_weight(const BlockRun& b) {
  const auto scope = span(b, "backward_weight");
  const BlockGradients& g = *b.grads;
  if (b.moe()) {
    moe_backward_weight(b.run, b.slabs, b.layer, b.acts.mid_TD, b.acts.moe, g.dout_TD, g.moe);
  } else {
    swiglu_backward_weight(b.run, b.slabs.gate_up, b.slabs.down, b.acts.h_TD, b.acts.dense, g.dout_TD, g.dense);
    b.run.k().rms_norm_backward_weight(b.run.ctx, g.dh_TD, b.acts.mid_TD, b.run.config.rms_norm_eps, b.run.gradient(b.slabs.post_norm));
  }
  mla_backward_weight(b.run, b.slabs, b.acts.x_TD, b.acts.mla, g.dmid_TD, g.mla);
}

void take_block(const Stores& stores, const ModelConfig& m, std::int64_t layer, std::int64_t T, std::int64_t sequences,
                BlockActivations& acts) {
  acts.mid_TD = stores.kept.take_mat(stores.precision.storage, T, m.hidden_size);
  acts.mla.take(stores, m, T);
  if (m.is_moe_layer(layer)) return acts.moe.take(stores, m, T, sequences);
  acts.dense.take(stores, T, m.intermediate_size);
  acts.h_TD = stores.take_input(T, m.hidden_size);
}

void take_block_gradients(const Stores& stores, const ModelConfig& m, std::int64_t T, BlockGradients& g) {
  const Precision& precision = stores.precision;
  core::Arena& work = stores.work;
  g.dmid_TD = work.take_mat(precision.storage, T, m.hidden_size);
  g.dh_TD = work.take_mat(precision.storage, T, m.hidden_size);
  g.mla.take(work, m, precision, T);
  if (m.n_routed_experts > 0) g.moe.take(stores, m, T);
  if (m.first_k_dense_replace > 0) g.dense.take(work, precision, T, m.intermediate_size);
}

}  // namespace finback::model
