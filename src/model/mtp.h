// A multi-token prediction module [V3 §2.2, Eq. 21–25]: at position i it joins the hidden state of position i with the
// embedding of token i + k, runs one decoder block, and predicts token i + k + 1 through the shared head.
//
// The halves stand as in the released weights: [enorm(embedding) ; hnorm(hidden)] (the paper writes them the other way round).
#pragma once

#include "model/block.h"

namespace finback::model {

struct MtpActivations {
  std::span<std::int32_t> ids, targets;  // token i + k and token i + k + 1 of every position; id 0 and target −1 beyond the sequence
  // Computed again in backward when run.recompute().
  core::Mat embedding_TD;
  core::Mat joined_TX;  // [enorm | hnorm]
  core::Mat normed_TD;  // after shared_head.norm; the caller's
  void take(const Stores& stores, const ModelConfig& config, std::int64_t tokens);
};

struct MtpGradients {
  core::Mat dnormed_TD, djoined_TX, dembedding_TD;
  void take(core::Arena& work, const ModelConfig& config, const Precision& precision, std::int64_t tokens);
};

// Shifts a micro-batch's tokens for depth k ≥ 1.
void mtp_shift(std::span<const std::int32_t> inputs, std::span<const std::int32_t> targets, std::int64_t seq_len, std::int64_t k,
               MtpActivations& acts);

// From hidden (of the main model or the module before) to the block's input x.
void mtp_join(const Run& run, const ModelSlabs& model, const BlockSlabs& slabs, core::ConstMat hidden_TD, MtpActivations& acts,
              core::Mat x_TD);
// The way back: dhidden = [addend +] …, and the gradient of what the embedding gave, which the caller adds to the embedding's.
void mtp_join_backward_input(const Run& run, const ModelSlabs& model, const BlockSlabs& slabs, core::ConstMat hidden_TD,
                             MtpActivations& acts, core::ConstMat dx_TD, MtpGradients& grads, core::ConstMat addend_TD,
                             core::Mat dhidden_TD);
void mtp_join_backward_weight(const Run& run, const BlockSlabs& slabs, core::ConstMat hidden_TD, const MtpActivations& acts,
                              core::ConstMat dx_TD, const MtpGradients& grads);

}  // namespace finback::model
