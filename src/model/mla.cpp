#include "model/mla.h"

#include <cstring>

namespace finback::model {
namespace {

using core::ConstMat;
using core::Mat;

// Where the parts stand in the first product's output.
struct Columns {
  std::int64_t q, c, r;  // widths: c_q' (or q), c_kv', k_pe
  explicit Columns(const ModelConfig& m)
      : q(m.q_lora_rank > 0 ? m.q_lora_rank : m.num_attention_heads * m.qk_head_dim()), c(m.kv_lora_rank), r(m.qk_rope_head_dim) {}
  std::int64_t total() const { return q + c + r; }
  template <class M>
  M q_part(const M& a) const {
    return a.columns(0, q);
  }
  template <class M>
  M kv_part(const M& a) const {
    return a.columns(q, c);
  }
  template <class M>
  M rope_part(const M& a) const {
    return a.columns(q + c, r);
  }
};

void rotate_queries(const Run& run, Mat q, bool inverse) {
  const ModelConfig& m = run.config;
  const Mat from_first_rope = q.columns(m.qk_nope_head_dim, q.cols - m.qk_nope_head_dim);
  run.k().rope(run.ctx, from_first_rope, m.num_attention_heads, m.qk_head_dim(), run.cos_sin_PR, run.positions_T, inverse);
}

void rotate_keys(const Run& run, Mat k_pe, bool inverse) {
  run.k().rope(run.ctx, k_pe, 1, k_pe.cols, run.cos_sin_PR, run.positions_T, inverse);
}

void input_norm(const Run& run, const BlockSlabs& s, ConstMat x, const MlaActivations& acts) {
  run.k().rms_norm_forward(run.ctx, x, run.weight(s.input_norm), run.config.rms_norm_eps, acts.h_TD.plain);
  quantise(run, acts.h_TD);
}

// From the input to the latents (with q itself, where it has none) and the rope key.
void down_project(const Run& run, const BlockSlabs& s, ConstMat x, const MlaActivations& acts) {
  input_norm(run, s, x, acts);
  linear_forward(run, acts.h_TD, s.qkv_a, {}, acts.a_TX);
  rotate_keys(run, Columns(run.config).rope_part(acts.a_TX), /*inverse=*/false);
  if (run.config.q_lora_rank == 0) rotate_queries(run, acts.q_TX, /*inverse=*/false);
}

void up_project_queries(const Run& run, const BlockSlabs& s, const MlaActivations& acts) {
  if (run.config.q_lora_rank == 0) return;
  run.k().rms_norm_forward(run.ctx, Columns(run.config).q_part(acts.a_TX), run.weight(s.q_a_norm), run.config.rms_norm_eps,
                           acts.cq_TQ.plain);
  quantise(run, acts.cq_TQ);
  linear_forward(run, acts.cq_TQ, s.q_b, {}, acts.q_TX);
  rotate_queries(run, acts.q_TX, /*inverse=*/false);
}

void norm_latent(const Run& run, const BlockSlabs& s, const MlaActivations& acts) {
  run.k().rms_norm_forward(run.ctx, Columns(run.config).kv_part(acts.a_TX), run.weight(s.kv_a_norm), run.config.rms_norm_eps,
                           acts.ckv_TC.plain);
}

// From the latents to queries, keys and values: done in forward, and again in backward [V3 §3.2.3].
void up_project(const Run& run, const BlockSlabs& s, const MlaActivations& acts) {
  up_project_queries(run, s, acts);
  norm_latent(run, s, acts);
  quantise(run, acts.ckv_TC);
  linear_forward(run, acts.ckv_TC, s.kv_b, {}, acts.kv_TX);
}

void store_latents(const LatentLayer& latent, ConstMat ckv, ConstMat k_pe) {
  const auto bytes = [](const ConstMat& m) { return static_cast<std::size_t>(m.cols * core::size_of(m.dtype)); };
  for (std::int64_t t = 0; t < ckv.rows; ++t) {
    const std::int64_t row = latent.cache_row_T[static_cast<std::size_t>(t)];
    std::memcpy(latent.cache_PX.at(row, 0), ckv.at(t, 0), bytes(ckv));
    std::memcpy(latent.cache_PX.at(row, ckv.cols), k_pe.at(t, 0), bytes(k_pe));
  }
}

// o is there in full after attention, and again before its backward pass.
void keep_output(const Run& run, const MlaActivations& acts) {
  quantise(run, acts.o_TO);
  if (acts.e5m6_TO.codes && run.gradients) run.count_nonfinite(run.k().encode_e5m6(run.ctx, acts.o_TO.plain, acts.e5m6_TO));
}
void restore_output(const Run& run, const MlaActivations& acts) {
  if (acts.e5m6_TO.codes) run.k().decode_e5m6(run.ctx, acts.e5m6_TO, acts.o_TO.plain);
  else if (run.storage == ActivationStorage::fp8) run.k().dequantize_rows(run.ctx, acts.o_TO.codes, acts.o_TO.plain);
  else quantise(run, acts.o_TO);
}

}  // namespace

void MlaActivations::take(const Stores& stores, const ModelConfig& m, std::int64_t T) {
  const Columns col(m);
  const std::int64_t H = m.num_attention_heads, O = H * m.v_head_dim;
  const core::DType storage = stores.precision.storage;
  a_TX = stores.kept.take_mat(storage, T, col.total());
  const bool keeps_e5m6 = stores.storage == ActivationStorage::paper;
  o_TO = take_input(stores.keeps_codes() ? stores.again : stores.kept,
                    keeps_e5m6                                  ? stores.work
                    : stores.storage == ActivationStorage::bf16 ? stores.again
                                                                : stores.kept,
                    stores.precision, T, O);
  if (keeps_e5m6)
    e5m6_TO = {stores.kept.take_mat(core::DType::u8, T, 3 * ((O + 1) / 2)),
               stores.kept.take_mat(core::DType::f32, T, kernels::tiles_of(O))};
  lse_TH = stores.kept.take_mat(stores.precision.accumulator, T, H);
  h_TD = stores.take_input(T, m.hidden_size);
  if (m.q_lora_rank > 0) {
    cq_TQ = stores.take_input(T, m.q_lora_rank);
    q_TX = stores.again.take_mat(storage, T, H * m.qk_head_dim());
  } else {
    q_TX = col.q_part(a_TX);
  }
  ckv_TC = stores.take_input(T, m.kv_lora_rank);
  kv_TX = stores.again.take_mat(storage, T, H * (m.qk_nope_head_dim + m.v_head_dim));
}

void MlaGradients::take(core::Arena& arena, const ModelConfig& m, const Precision& precision, std::int64_t T) {
  const Columns col(m);
  const std::int64_t H = m.num_attention_heads;
  do_TO = arena.take_mat(precision.storage, T, H * m.v_head_dim);
  da_TX = arena.take_mat(precision.storage, T, col.total());
  if (m.q_lora_rank > 0) {
    dq_TX = arena.take_mat(precision.storage, T, H * m.qk_head_dim());
    dcq_TQ = arena.take_mat(precision.storage, T, m.q_lora_rank);
  } else {
    dq_TX = col.q_part(da_TX);
  }
  dkv_TX = arena.take_mat(precision.storage, T, H * (m.qk_nope_head_dim + m.v_head_dim));
  dckv_TC = arena.take_mat(precision.storage, T, m.kv_lora_rank);
  dh_TD = arena.take_mat(precision.storage, T, m.hidden_size);
}

void mla_forward(const Run& run, const BlockSlabs& s, ConstMat x, MlaActivations& acts, Mat mid) {
  down_project(run, s, x, acts);
  up_project(run, s, acts);
  run.k().attention_forward(run.ctx, acts.q_TX, acts.kv_TX, Columns(run.config).rope_part(acts.a_TX), run.segments,
                            run.config.attention_shape(), acts.o_TO.plain, acts.lse_TH);
  keep_output(run, acts);
  linear_forward(run, acts.o_TO, s.o, x, mid);
}

void mla_absorbed_forward(const Run& run, const BlockSlabs& s, ConstMat x, const LatentLayer& latent, MlaActivations& acts, Mat mid) {
  const ModelConfig& m = run.config;
  down_project(run, s, x, acts);
  up_project_queries(run, s, acts);
  norm_latent(run, s, acts);
  store_latents(latent, acts.ckv_TC.plain, Columns(m).rope_part(acts.a_TX));
  run.k().linear_slices(run.ctx, acts.q_TX, m.qk_head_dim(), latent.k_up, latent.q_latent_TX, m.kv_lora_rank);
  run.k().latent_attention(run.ctx, latent.q_latent_TX, acts.q_TX, latent.cache_PX, latent.segments, m.attention_shape(),
                           latent.o_latent_TX);
  run.k().linear_slices(run.ctx, latent.o_latent_TX, m.kv_lora_rank, latent.v_up, acts.o_TO.plain, m.v_head_dim);
  quantise(run, acts.o_TO);
  linear_forward(run, acts.o_TO, s.o, x, mid);
}

void mla_backward_input(const Run& run, const BlockSlabs& s, ConstMat x, MlaActivations& acts, ConstMat dmid, MlaGradients& g, Mat dx) {
  const Columns col(run.config);
  const double eps = run.config.rms_norm_eps;
  if (run.recompute()) {
    input_norm(run, s, x, acts);
    up_project(run, s, acts);
    restore_output(run, acts);
  }
  linear_backward_input(run, dmid, s.o, {}, g.do_TO);
  run.k().attention_backward(run.ctx, acts.q_TX, acts.kv_TX, col.rope_part(acts.a_TX), acts.o_TO.plain, acts.lse_TH, g.do_TO, run.segments,
                             run.config.attention_shape(), g.dq_TX, g.dkv_TX, col.rope_part(g.da_TX));
  rotate_queries(run, g.dq_TX, /*inverse=*/true);
  rotate_keys(run, col.rope_part(g.da_TX), /*inverse=*/true);
  if (run.config.q_lora_rank > 0) {
    linear_backward_input(run, g.dq_TX, s.q_b, {}, g.dcq_TQ);
    run.k().rms_norm_backward_input(run.ctx, g.dcq_TQ, col.q_part(acts.a_TX), run.weight(s.q_a_norm), eps, {}, col.q_part(g.da_TX));
  }
  linear_backward_input(run, g.dkv_TX, s.kv_b, {}, g.dckv_TC);
  run.k().rms_norm_backward_input(run.ctx, g.dckv_TC, col.kv_part(acts.a_TX), run.weight(s.kv_a_norm), eps, {}, col.kv_part(g.da_TX));
  linear_backward_input(run, g.da_TX, s.qkv_a, {}, g.dh_TD);
  run.k().rms_norm_backward_input(run.ctx, g.dh_TD, x, run.weight(s.input_norm), eps, dmid, dx);
}

void mla_backward_weight(const Run& run, const BlockSlabs& s, ConstMat x, const MlaActivations& acts, ConstMat dmid,
                         const MlaGradients& g) {
  const Columns col(run.config);
  const double eps = run.config.rms_norm_eps;
  linear_backward_weight(run, dmid, acts.o_for_weight(), s.o);
  if (run.config.q_lora_rank > 0) {
    linear_backward_weight(run, g.dq_TX, acts.cq_TQ, s.q_b);
    run.k().rms_norm_backward_weight(run.ctx, g.dcq_TQ, col.q_part(acts.a_TX), eps, run.gradient(s.q_a_norm));
  }
  linear_backward_weight(run, g.dkv_TX, acts.ckv_TC, s.kv_b);
  run.k().rms_norm_backward_weight(run.ctx, g.dckv_TC, col.kv_part(acts.a_TX), eps, run.gradient(s.kv_a_norm));
  linear_backward_weight(run, g.da_TX, acts.h_TD, s.qkv_a);
  run.k().rms_norm_backward_weight(run.ctx, g.dh_TD, x, eps, run.gradient(s.input_norm));
}

}  // namespace finback::model
