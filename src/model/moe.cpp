#include "model/moe.h"

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

// Rows of tokens to slots, in the form that `to` has.
void dispatch(const Run& run, const LinearInput& from, const Routing& r, const LinearInput& to) {
  if (to.plain) return run.k().gather_rows(run.ctx, from.plain, r.slot_token, to.plain);
  run.k().gather_rows(run.ctx, from.codes.codes, r.slot_token, to.codes.codes);
  run.k().gather_rows(run.ctx, from.codes.scales, r.slot_token, to.codes.scales);
}

void order_slots(const Run& run, MoeActivations& acts) {
  const core::SpanScope span(run.ctx.spans, "assign_slots");
  assign_slots(acts.routing, run.config.n_routed_experts);
  permute_elements(acts.routing.weights_TK, acts.routing.token_slots_TK, /*scatter=*/true, acts.rows.slot_weight_1S);
}

// The norm and the gate's logits.
void gate_logits(const Run& run, const BlockSlabs& s, ConstMat mid, MoeActivations& acts) {
  run.k().rms_norm_forward(run.ctx, mid, run.weight(s.post_norm), run.config.rms_norm_eps, acts.h_TD.plain);
  linear_forward(run, acts.h_TD.plain, s.gate, {}, acts.logits_TE);
}

}  // namespace

void Routing::take(const Stores& stores, const ModelConfig& m, std::int64_t T) {
  const std::int64_t K = m.num_experts_per_tok, E = m.n_routed_experts;
  const core::DType accumulator = stores.precision.accumulator;
  ids_TK = stores.kept.take_mat(core::DType::i32, T, K);
  weights_TK = stores.kept.take_mat(accumulator, T, K);
  offsets = {stores.kept.take_array<std::int64_t>(E + 1), static_cast<std::size_t>(E + 1)};
  token_slots_TK = stores.again.take_mat(core::DType::i32, T, K);
  slot_token = {stores.again.take_array<std::int32_t>(T * K), static_cast<std::size_t>(T * K)};
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
}

void MoeActivations::take(const Stores& stores, const ModelConfig& m, std::int64_t T, std::int64_t sequences) {
  const std::int64_t D = m.hidden_size, F = m.moe_intermediate_size, E = m.n_routed_experts, S = T * m.num_experts_per_tok;
  const Precision& p = stores.precision;
  routing.take(stores, m, T);
  balance_f = stores.kept.take_mat(p.accumulator, sequences, E);
  rows.offsets = routing.offsets;
  rows.slot_weight_1S = stores.again.take_mat(p.accumulator, 1, S);
  if (!stores.spread) rows.gu_SX.take(stores, S, F);
  if (m.n_shared_experts > 0) shared.take(stores, T, shared_width(m));
  logits_TE = stores.again.take_mat(p.accumulator, T, E);
  h_TD = take_input(stores.again, stores.again, p, T, D, /*power_of_two=*/true);
  rows.x_SD = take_slots(stores.spread ? stores.work : stores.again, p, core::DType::e4m3, S, D);
  if (!stores.spread) rows.act_SF = stores.take_input(S, F);
  rows.y_SD = stores.work.take_mat(p.storage, S, D);
}

void MoeGradients::take(const Stores& stores, const ModelConfig& m, std::int64_t T) {
  const std::int64_t D = m.hidden_size, F = m.moe_intermediate_size, K = m.num_experts_per_tok, S = T * K;
  const Precision& p = stores.precision;
  core::Arena& arena = stores.work;
  if (p.fp8) dout_TD = {{}, take_codes(arena, gradient_format(p), T, D), /*power_of_two=*/true};
  rows.dy_SD = take_slots(arena, p, gradient_format(p), S, D);
  if (!stores.spread) {
    rows.dact_SF = arena.take_mat(p.storage, S, F);
    rows.dgu_SX = arena.take_mat(p.storage, S, 2 * F);
  }
  rows.dx_SD = arena.take_mat(p.storage, S, D);
  rows.dweight_1S = arena.take_mat(p.accumulator, 1, S);
  dweights_TK = arena.take_mat(p.accumulator, T, K);
  dlogits_TE = arena.take_mat(p.storage, T, m.n_routed_experts);
  dh_TD = arena.take_mat(p.storage, T, D);
  if (m.n_shared_experts > 0) shared.take(arena, p, T, shared_width(m));
}

double moe_choose(const Run& run, const BlockSlabs& s, ConstMat mid, MoeActivations& acts) {
  const ModelConfig& m = run.config;
  gate_logits(run, s, mid, acts);
  quantise(run, acts.h_TD);
  const ConstMat bias = s.gate_bias >= 0 ? run.weight(s.gate_bias) : ConstMat{};
  run.k().gate_forward(run.ctx, acts.logits_TE, bias, m.gate_shape(), acts.routing.ids_TK, acts.routing.weights_TK);
  order_slots(run, acts);
  return run.gradients ? run.k().balance_forward(run.ctx, acts.logits_TE, m.gate_shape(), run.sequences, acts.balance_f) : 0;
}

void moe_dispatch(const Run& run, std::int64_t layer, MoeActivations& acts) {
  dispatch(run, acts.h_TD, acts.routing, acts.rows.x_SD);
  if (run.spread) spread_dispatch(run, layer, acts.routing.offsets, acts.rows.x_SD, acts.rows.slot_weight_1S);
}

void moe_experts(const Run& run, const BlockSlabs& s, std::int64_t layer, ConstMat mid, MoeActivations& acts, Mat out) {
  if (run.config.n_shared_experts > 0) swiglu_forward(run, s.gate_up, s.down, acts.h_TD, mid, acts.shared, out);
  if (run.spread) spread_experts(run, s, layer, acts.rows.y_SD);
  else experts_forward(run, s, acts.rows);
}

void moe_combine(const Run& run, ConstMat mid, const MoeActivations& acts, Mat out) {
  if (run.spread) run.spread->exchange.wait(ExpertExchange::forward);
  const ConstMat base = run.config.n_shared_experts > 0 ? ConstMat(out) : mid;
  run.k().combine_rows(run.ctx, acts.rows.y_SD, acts.routing.ids_TK, acts.routing.token_slots_TK,
                       run.config.n_routed_experts / run.config.n_group, base, out);
}

void moe_combine_backward(const Run& run, const BlockSlabs& s, std::int64_t layer, ConstMat mid, MoeActivations& acts, ConstMat dout,
                          MoeGradients& g) {
  if (run.recompute()) {
    gate_logits(run, s, mid, acts);
    quantise(run, acts.h_TD);
    order_slots(run, acts);
    if (!run.spread) {
      dispatch(run, acts.h_TD, acts.routing, acts.rows.x_SD);
      experts_again(run, acts.rows);
    }
  }
  const LinearInput& dy = g.rows.dy_SD;
  if (dy.plain) {
    run.k().gather_rows(run.ctx, dout, acts.routing.slot_token, dy.plain);
  } else {
    quantise_gradient(run, dout, all_rows(dout), g.dout_TD.power_of_two, g.dout_TD.codes);
    dispatch(run, g.dout_TD, acts.routing, dy);
  }
  if (run.spread) spread_combine_backward(run, layer, dy, g.senders);
}

void moe_experts_backward(const Run& run, const BlockSlabs& s, std::int64_t layer, MoeActivations& acts, ConstMat dout, MoeGradients& g) {
  if (run.config.n_shared_experts > 0)
    swiglu_backward_input(run, s.gate_up, s.down, acts.shared, g.dout_TD.codes.codes ? Operand(g.dout_TD) : Operand(dout), g.shared,
                          g.dh_TD);
  if (run.spread) spread_experts_backward(run, s, layer, g.senders, g.rows.dx_SD, g.rows.dweight_1S);
  else experts_backward_input(run, s, acts.rows, g.rows);
}

void moe_dispatch_backward(const Run& run, const MoeActivations& acts, MoeGradients& g) {
  const Routing& r = acts.routing;
  if (run.spread) run.spread->exchange.wait(ExpertExchange::backward);
  const ConstMat shared = run.config.n_shared_experts > 0 ? ConstMat(g.dh_TD) : ConstMat{};
  run.k().combine_rows(run.ctx, g.rows.dx_SD, r.ids_TK, r.token_slots_TK, run.config.n_routed_experts / run.config.n_group, shared,
                       g.dh_TD);
  const core::SpanScope span(run.ctx.spans, "permute_elements");
  permute_elements(g.rows.dweight_1S, r.token_slots_TK, /*scatter=*/false, g.dweights_TK);
}

void moe_choose_backward(const Run& run, const BlockSlabs& s, ConstMat mid, const MoeActivations& acts, double balance_scale, ConstMat dout,
                         MoeGradients& g, Mat dmid) {
  run.k().gate_backward(run.ctx, acts.logits_TE, acts.routing.ids_TK, g.dweights_TK, run.config.gate_shape(), run.sequences,
                        balance_scale != 0 ? ConstMat(acts.balance_f) : ConstMat{}, balance_scale, g.dlogits_TE);
  linear_backward_input(run, g.dlogits_TE, s.gate, g.dh_TD, g.dh_TD);
  run.k().rms_norm_backward_input(run.ctx, g.dh_TD, mid, run.weight(s.post_norm), run.config.rms_norm_eps, dout, dmid);
}

void moe_backward_weight(const Run& run, const BlockSlabs& s, std::int64_t layer, ConstMat mid, const MoeActivations& acts, ConstMat dout,
                         const MoeGradients& g) {
  if (run.spread) spread_backward_weight(run, s, layer, g.senders);
  else experts_backward_weight(run, s, acts.rows, g.rows);
  if (run.config.n_shared_experts > 0) swiglu_backward_weight(run, s.gate_up, s.down, acts.h_TD, acts.shared, dout, g.shared);
  linear_backward_weight(run, g.dlogits_TE, acts.h_TD.plain, s.gate);
  run.k().rms_norm_backward_weight(run.ctx, g.dh_TD, mid, run.config.rms_norm_eps, run.gradient(s.post_norm));
}

}  // namespace finback::model
