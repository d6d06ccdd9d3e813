// Multi-head latent attention [V3 §2.1.1, Eq. 1–11; V2 §2.1], plain (multi-head) form, with norm before and residual after.
//
//   h = norm(x);  [c_q' | c_kv' | k_pe'] = h · W_aᵀ;  c_q = norm(c_q');  c_kv = norm(c_kv');  k_pe = rope(k_pe')
//   q = c_q · W_qbᵀ, its rope part rotated;  [k_nope | v] = c_kv · W_kvbᵀ;  mid = x + attention(q, k, v) · W_oᵀ
//
// Without q_lora_rank the first columns of the first product are q itself.
#pragma once

#include "model/stores.h"

namespace finback::model {

struct MlaActivations {
  // Kept from forward to backward.
  core::Mat a_TX;                 // [c_q' or q | c_kv' | k_pe]; k_pe (and q, if here) already rotated
  LinearInput o_TO;               // attention's output, H·V columns: one half of it is kept, or
  kernels::ScaledBuffer e5m6_TO;  // this
  core::Mat lse_TH;               // accumulator type
  // Computed again in backward when run.recompute().
  LinearInput h_TD, cq_TQ, ckv_TC;
  core::Mat q_TX, kv_TX;

  void take(const Stores& stores, const ModelConfig& config, std::int64_t tokens);
  Operand o_for_weight() const { return e5m6_TO.codes ? Operand({o_TO.plain, {}}, /*power_of_two_scales=*/true) : Operand(o_TO); }
};

// What backward_input leaves for backward_weight.
struct MlaGradients {
  core::Mat do_TO, dq_TX, dcq_TQ, dkv_TX, dckv_TC, da_TX, dh_TD;
  void take(core::Arena& arena, const ModelConfig& config, const Precision& precision, std::int64_t tokens);
};

// Keys and values of earlier positions, expanded per head: the cache of the plain decode loop. Rows are positions.
struct KeyValueRows {
  core::Mat kv, k_pe;
};

// cache: null in training. Otherwise one sequence, whose new rows are stored at run.positions_T and which attends to all.
void mla_forward(const Run& run, const BlockSlabs& slabs, core::ConstMat x_TD, const KeyValueRows* cache, MlaActivations& acts,
                 core::Mat mid_TD);
// dx = dmid + the gradient through attention. x is the block's input again.
void mla_backward_input(const Run& run, const BlockSlabs& slabs, core::ConstMat x_TD, MlaActivations& acts, core::ConstMat dmid_TD,
                        MlaGradients& grads, core::Mat dx_TD);
void mla_backward_weight(const Run& run, const BlockSlabs& slabs, core::ConstMat x_TD, const MlaActivations& acts, core::ConstMat dmid_TD,
                         const MlaGradients& grads);

}  // namespace finback::model
