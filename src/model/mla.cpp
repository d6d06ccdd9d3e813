#include "model/mla.h"

#include "model/dense.h"

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

// From the latents to queries, keys and values: done in forward, and again in backward [V3 §3.2.3].
void up_project(const Run& run, const BlockSlabs& s, const MlaActivations& acts, Mat kv) {
  const Columns col(run.config);
  const double eps = run.config.rms_norm_eps;
  if (run.config.q_lora_rank > 0) {
    run.k().rms_norm_forward(run.ctx, col.q_part(acts.a_TX), run.weight(s.q_a_norm), eps, acts.cq_TQ);
    linear_forward(run, acts.cq_TQ, s.q_b, {}, acts.q_TX);
    rotate_queries(run, acts.q_TX, /*inverse=*/false);
  }
  run.k().rms_norm_forward(run.ctx, col.kv_part(acts.a_TX), run.weight(s.kv_a_norm), eps, acts.ckv_TC);
  linear_forward(run, acts.ckv_TC, s.kv_b, {}, kv);
}

}  // namespace

void MlaActivations::take(core::Arena& kept, core::Arena& again, const ModelConfig& m, Precision precision, std::int64_t T) {
  const Columns col(m);
  const std::int64_t H = m.num_attention_heads;
  a_TX = kept.take_mat(precision.storage, T, col.total());
  o_TO = kept.take_mat(precision.storage, T, H * m.v_head_dim);
  lse_TH = kept.take_mat(precision.accumulator, T, H);
  h_TD = again.take_mat(precision.storage, T, m.hidden_size);
  if (m.q_lora_rank > 0) {
    cq_TQ = again.take_mat(precision.storage, T, m.q_lora_rank);
    q_TX = again.take_mat(precision.storage, T, H * m.qk_head_dim());
  } else {
    q_TX = col.q_part(a_TX);
  }
  ckv_TC = again.take_mat(precision.storage, T, m.kv_lora_rank);
  kv_TX = again.take_mat(precision.storage, T, H * (m.qk_nope_head_dim + m.v_head_dim));
}

void MlaGradients::take(core::Arena& arena, const ModelConfig& m, Precision precision, std::int64_t T) {
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

void mla_forward(const Run& run, const BlockSlabs& s, ConstMat x, const KeyValueRows* cache, MlaActivations& acts, Mat mid) {
  const Columns col(run.config);
  run.k().rms_norm_forward(run.ctx, x, run.weight(s.input_norm), run.config.rms_norm_eps, acts.h_TD);
  linear_forward(run, acts.h_TD, s.qkv_a, {}, acts.a_TX);
  rotate_keys(run, col.rope_part(acts.a_TX), /*inverse=*/false);
  if (run.config.q_lora_rank == 0) rotate_queries(run, acts.q_TX, /*inverse=*/false);

  Mat kv = acts.kv_TX, k_pe = col.rope_part(acts.a_TX);
  if (cache) {
    const std::int64_t first = run.positions_T.front();
    up_project(run, s, acts, cache->kv.row_range(first, run.tokens));
    run.k().convert(run.ctx, k_pe, cache->k_pe.row_range(first, run.tokens));
    kv = cache->kv;
    k_pe = cache->k_pe;
  } else {
    up_project(run, s, acts, kv);
  }
  run.k().attention_forward(run.ctx, acts.q_TX, kv, k_pe, run.segments, run.config.attention_shape(), acts.o_TO, acts.lse_TH);
  linear_forward(run, acts.o_TO, s.o, x, mid);
}

void mla_backward_input(const Run& run, const BlockSlabs& s, ConstMat x, MlaActivations& acts, ConstMat dmid, MlaGradients& g, Mat dx) {
  const Columns col(run.config);
  const double eps = run.config.rms_norm_eps;
  if (run.recompute) {
    run.k().rms_norm_forward(run.ctx, x, run.weight(s.input_norm), eps, acts.h_TD);
    up_project(run, s, acts, acts.kv_TX);
  }
  linear_backward_input(run, dmid, s.o, {}, g.do_TO);
  run.k().attention_backward(run.ctx, acts.q_TX, acts.kv_TX, col.rope_part(acts.a_TX), acts.o_TO, acts.lse_TH, g.do_TO, run.segments,
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
  linear_backward_weight(run, dmid, acts.o_TO, s.o);
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
