// Multi-head latent attention [V3 §2.1.1, Eq. 1–11; V2 §2.1], with norm before and residual after: the plain (multi-head) form, and for
// serving the absorbed one.
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

// What the absorbed form needs beside that, of one layer and one step of serving [V2 §2.1.2]: the latent cache and where the step's
// tokens stand in it. A token's row of the cache is [c_kv | k_pe], normed and rotated.
struct LatentLayer {
  core::Mat cache_PX;                               // pages of kernels::kPage rows
  std::span<const kernels::PagedSegment> segments;  // their last rows are the step's own tokens
  std::span<const std::int64_t> cache_row_T;        // of the step's tokens, where their latents are put
  kernels::WeightView k_up, v_up;                   // W_UK turned [H][C, N] and W_UV [H][V, C] (absorbed_weights.h)
  core::Mat q_latent_TX, o_latent_TX;               // work, H·C columns each
};

// Attention within run.segments, each of them a whole sequence.
void mla_forward(const Run& run, const BlockSlabs& slabs, core::ConstMat x_TD, MlaActivations& acts, core::Mat mid_TD);
// The absorbed form: the same function within rounding, against all that the cache holds of each sequence. acts.kv_TX is not touched.
void mla_absorbed_forward(const Run& run, const BlockSlabs& slabs, core::ConstMat x_TD, const LatentLayer& latent, MlaActivations& acts,
                          core::Mat mid_TD);
// dx = dmid + the gradient through attention. x is the block's input again.
void mla_backward_input(const Run& run, const BlockSlabs& slabs, core::ConstMat x_TD, MlaActivations& acts, core::ConstMat dmid_TD,
                        MlaGradients& grads, core::Mat dx_TD);
void mla_backward_weight(const Run& run, const BlockSlabs& slabs, core::ConstMat x_TD, const MlaActivations& acts, core::ConstMat dmid_TD,
                         const MlaGradients& grads);

}  // namespace finback::model
