#include "model/moe.h"

#include "model/dense.h"

#include <algorithm>
#include <cstring>

namespace finback::model {
namespace {

using core::ConstMat;
using core::Mat;

// Copies elements of `size` bytes: to[i] = from[index[i]], or to[index[i]] = from[i].
void permute_elements(ConstMat from, ConstMat index, bool scatter, Mat to) {
  const std::int64_t size = core::size_of(to.dtype);
  const auto* source = static_cast<const std::byte*>(from.data);
  auto* target = static_cast<std::byte*>(to.data);
  const auto* i = static_cast<const std::int32_t*>(index.data);
  for (std::int64_t n = 0; n < index.size(); ++n)
    std::memcpy(target + (scatter ? i[n] : n) * size, source + (scatter ? n : i[n]) * size, static_cast<std::size_t>(size));
}

std::int64_t shared_width(const ModelConfig& m) { return m.n_shared_experts * m.moe_intermediate_size; }

}  // namespace

void Routing::take(core::Arena& kept, const ModelConfig& m, Precision precision, std::int64_t T) {
  const std::int64_t K = m.num_experts_per_tok, E = m.n_routed_experts;
  ids_TK = kept.take_mat(core::DType::i32, T, K);
  token_slots_TK = kept.take_mat(core::DType::i32, T, K);
  weights_TK = kept.take_mat(precision.accumulator, T, K);
  slot_weight_1S = kept.take_mat(precision.accumulator, 1, T * K);
  offsets = {kept.take_array<std::int64_t>(E + 1), static_cast<std::size_t>(E + 1)};
  slot_token = {kept.take_array<std::int32_t>(T * K), static_cast<std::size_t>(T * K)};
}

void assign_slots(Routing& r, std::int64_t experts) {
  const std::int64_t T = r.ids_TK.rows, K = r.ids_TK.cols;
  const auto* ids = r.ids_TK.row<std::int32_t>(0);
  auto* slots = r.token_slots_TK.row<std::int32_t>(0);
  std::fill(r.offsets.begin(), r.offsets.end(), 0);
  for (std::int64_t i = 0; i < T * K; ++i) ++r.offsets[static_cast<std::size_t>(ids[i]) + 1];
  for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) r.offsets[e + 1] += r.offsets[e];
  // Filling moves each begin to its end; shifting by one restores the begins.
  for (std::int64_t i = 0; i < T * K; ++i) {
    const std::int64_t slot = r.offsets[static_cast<std::size_t>(ids[i])]++;
    slots[i] = static_cast<std::int32_t>(slot);
    r.slot_token[static_cast<std::size_t>(slot)] = static_cast<std::int32_t>(i / K);
  }
  std::copy_backward(r.offsets.begin(), r.offsets.end() - 1, r.offsets.end());
  r.offsets.front() = 0;
  permute_elements(r.weights_TK, r.token_slots_TK, /*scatter=*/true, r.slot_weight_1S);
}

void MoeActivations::take(core::Arena& kept, core::Arena& again, core::Arena& work, const ModelConfig& m, Precision precision,
                          std::int64_t T, std::int64_t sequences) {
  const std::int64_t D = m.hidden_size, F = m.moe_intermediate_size, E = m.n_routed_experts, S = T * m.num_experts_per_tok;
  routing.take(kept, m, precision, T);
  logits_TE = kept.take_mat(precision.accumulator, T, E);
  balance_f = kept.take_mat(precision.accumulator, sequences, E);
  gu_SX = kept.take_mat(precision.storage, S, 2 * F);
  if (m.n_shared_experts > 0) shared.take(kept, again, precision, T, shared_width(m));
  h_TD = again.take_mat(precision.storage, T, D);
  x_SD = again.take_mat(precision.storage, S, D);
  act_SF = again.take_mat(precision.storage, S, F);
  y_SD = work.take_mat(precision.storage, S, D);
}

void MoeGradients::take(core::Arena& arena, const ModelConfig& m, Precision precision, std::int64_t T) {
  const std::int64_t D = m.hidden_size, F = m.moe_intermediate_size, K = m.num_experts_per_tok, S = T * K;
  dy_SD = arena.take_mat(precision.storage, S, D);
  dact_SF = arena.take_mat(precision.storage, S, F);
  dgu_SX = arena.take_mat(precision.storage, S, 2 * F);
  dx_SD = arena.take_mat(precision.storage, S, D);
  dweight_1S = arena.take_mat(precision.accumulator, 1, S);
  dweights_TK = arena.take_mat(precision.accumulator, T, K);
  dlogits_TE = arena.take_mat(precision.storage, T, m.n_routed_experts);
  dh_TD = arena.take_mat(precision.storage, T, D);
  if (m.n_shared_experts > 0) shared.take(arena, precision, T, shared_width(m));
}

double moe_choose(const Run& run, const BlockSlabs& s, ConstMat mid, MoeActivations& acts) {
  const ModelConfig& m = run.config;
  run.k().rms_norm_forward(run.ctx, mid, run.weight(s.post_norm), m.rms_norm_eps, acts.h_TD);
  linear_forward(run, acts.h_TD, s.gate, {}, acts.logits_TE);
  const ConstMat bias = s.gate_bias >= 0 ? run.weight(s.gate_bias) : ConstMat{};
  run.k().gate_forward(run.ctx, acts.logits_TE, bias, m.gate_shape(), acts.routing.ids_TK, acts.routing.weights_TK);
  {
    const core::SpanScope span(run.ctx.spans, "assign_slots");
    assign_slots(acts.routing, m.n_routed_experts);
  }
  return run.gradients ? run.k().balance_forward(run.ctx, acts.logits_TE, m.gate_shape(), run.sequences, acts.balance_f) : 0;
}

void moe_dispatch(const Run& run, MoeActivations& acts) { run.k().gather_rows(run.ctx, acts.h_TD, acts.routing.slot_token, acts.x_SD); }

void moe_experts(const Run& run, const BlockSlabs& s, ConstMat mid, MoeActivations& acts, Mat out) {
  const std::int64_t E = run.config.n_routed_experts;
  const Routing& r = acts.routing;
  run.k().linear_forward(run.ctx, acts.x_SD, run.linear(s.expert_gate_up, E), r.offsets, {}, acts.gu_SX);
  run.k().swiglu_forward(run.ctx, acts.gu_SX, r.slot_weight_1S, acts.act_SF);
  run.k().linear_forward(run.ctx, acts.act_SF, run.linear(s.expert_down, E), r.offsets, {}, acts.y_SD);
  if (run.config.n_shared_experts > 0) swiglu_forward(run, s.gate_up, s.down, acts.h_TD, mid, acts.shared, out);
}

void moe_combine(const Run& run, ConstMat mid, const MoeActivations& acts, Mat out) {
  const ConstMat base = run.config.n_shared_experts > 0 ? ConstMat(out) : mid;
  run.k().combine_rows(run.ctx, acts.y_SD, acts.routing.ids_TK, acts.routing.token_slots_TK,
                       run.config.n_routed_experts / run.config.n_group, base, out);
}

void moe_combine_backward(const Run& run, const BlockSlabs& s, ConstMat mid, MoeActivations& acts, ConstMat dout, MoeGradients& g) {
  if (run.recompute) {
    run.k().rms_norm_forward(run.ctx, mid, run.weight(s.post_norm), run.config.rms_norm_eps, acts.h_TD);
    moe_dispatch(run, acts);
    run.k().swiglu_forward(run.ctx, acts.gu_SX, acts.routing.slot_weight_1S, acts.act_SF);
  }
  run.k().gather_rows(run.ctx, dout, acts.routing.slot_token, g.dy_SD);
}

void moe_experts_backward(const Run& run, const BlockSlabs& s, MoeActivations& acts, ConstMat dout, MoeGradients& g) {
  const std::int64_t E = run.config.n_routed_experts;
  const Routing& r = acts.routing;
  run.k().linear_backward_input(run.ctx, g.dy_SD, run.linear(s.expert_down, E), r.offsets, {}, g.dact_SF);
  run.k().swiglu_backward(run.ctx, g.dact_SF, acts.gu_SX, r.slot_weight_1S, g.dgu_SX, g.dweight_1S);
  run.k().linear_backward_input(run.ctx, g.dgu_SX, run.linear(s.expert_gate_up, E), r.offsets, {}, g.dx_SD);
  if (run.config.n_shared_experts > 0) swiglu_backward_input(run, s.gate_up, s.down, acts.shared, dout, g.shared, g.dh_TD);
}

void moe_dispatch_backward(const Run& run, const MoeActivations& acts, MoeGradients& g) {
  const Routing& r = acts.routing;
  const ConstMat shared = run.config.n_shared_experts > 0 ? ConstMat(g.dh_TD) : ConstMat{};
  run.k().combine_rows(run.ctx, g.dx_SD, r.ids_TK, r.token_slots_TK, run.config.n_routed_experts / run.config.n_group, shared, g.dh_TD);
  const core::SpanScope span(run.ctx.spans, "permute_elements");
  permute_elements(g.dweight_1S, r.token_slots_TK, /*scatter=*/false, g.dweights_TK);
}

void moe_choose_backward(const Run& run, const BlockSlabs& s, ConstMat mid, const MoeActivations& acts, double balance_scale, ConstMat dout,
                         MoeGradients& g, Mat dmid) {
  run.k().gate_backward(run.ctx, acts.logits_TE, acts.routing.ids_TK, g.dweights_TK, run.config.gate_shape(), run.sequences,
                        balance_scale != 0 ? ConstMat(acts.balance_f) : ConstMat{}, balance_scale, g.dlogits_TE);
  linear_backward_input(run, g.dlogits_TE, s.gate, g.dh_TD, g.dh_TD);
  run.k().rms_norm_backward_input(run.ctx, g.dh_TD, mid, run.weight(s.post_norm), run.config.rms_norm_eps, dout, dmid);
}

void moe_backward_weight(const Run& run, const BlockSlabs& s, ConstMat mid, const MoeActivations& acts, ConstMat dout,
                         const MoeGradients& g) {
  const Routing& r = acts.routing;
  run.k().linear_backward_weight(run.ctx, g.dy_SD, acts.act_SF, r.offsets, run.gradient(s.expert_down));
  run.k().linear_backward_weight(run.ctx, g.dgu_SX, acts.x_SD, r.offsets, run.gradient(s.expert_gate_up));
  if (run.config.n_shared_experts > 0) swiglu_backward_weight(run, s.gate_up, s.down, acts.h_TD, acts.shared, dout, g.shared);
  linear_backward_weight(run, g.dlogits_TE, acts.h_TD, s.gate);
  run.k().rms_norm_backward_weight(run.ctx, g.dh_TD, mid, run.config.rms_norm_eps, run.gradient(s.post_norm));
}

}  // namespace finback::model
