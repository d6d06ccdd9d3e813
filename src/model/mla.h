// Multi-head latent attention [V3 §2.1.1, Eq. 1–11; V2 §2.1], plain (multi-head) form, with norm before and residual after.
//
//   h = norm(x);  [c_q' | c_kv' | k_pe'] = h · W_aᵀ;  c_q = norm(c_q');  c_kv = norm(c_kv');  k_pe = rope(k_pe')
//   q = c_q · W_qbᵀ, its rope part rotated;  [k_nope | v] = c_kv · W_kvbᵀ;  mid = x + attention(q, k, v) · W_oᵀ
//
// Without q_lora_rank the first columns of the first product are q itself.
#pragma once

#include "model/run.h"

namespace finback::model {

struct MlaActivations {
  // Kept from forward to backward.
  core::Mat a_TX;    // [c_q' or q | c_kv' | k_pe]; k_pe (and q, if here) already rotated
  core::Mat o_TO;    // attention's output, H·V columns
  core::Mat lse_TH;  // accumulator type
  // Computed again in backward when run.recompute.
  core::Mat h_TD, cq_TQ, ckv_TC, q_TX, kv_TX;

  void take(core::Arena& kept, core::Arena& again, const ModelConfig& config, Precision precision, std::int64_t tokens);
};

// What backward_input leaves for backward_weight.
struct MlaGradients {
  core::Mat do_TO, dq_TX, dcq_TQ, dkv_TX, dckv_TC, da_TX, dh_TD;
  void take(core::Arena& arena, const ModelConfig& config, Precision precision, std::int64_t tokens);
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
