// DeepSeekMoE [V3 §2.1.2, Eq. 12–20]: the gate chooses K routed experts a token; each expert is a SwiGLU whose output is
// weighted by the gate (the weight is applied after SwiGLU, before the down projection); shared experts see every token.
// No token is ever dropped.
#pragma once

#include "model/spread.h"

namespace finback::model {

// Which slot each (token, choice) takes. Slots are ordered by (expert, token, choice): S = T · K of them.
struct Routing {
  // Kept.
  core::Mat ids_TK;                 // i32, ascending in each row
  core::Mat weights_TK;             // accumulator type
  std::span<std::int64_t> offsets;  // E + 1: where each expert's slots begin
  // Computed again.
  core::Mat token_slots_TK;            // i32
  std::span<std::int32_t> slot_token;  // S

  void take(const Stores& stores, const ModelConfig& config, std::int64_t tokens);
};

// Fills offsets, slot_token and token_slots from ids.
void assign_slots(Routing& routing, std::int64_t experts);

struct MoeActivations {
  // Kept.
  Routing routing;
  core::Mat balance_f;  // [sequences, E]
  // The slots of these tokens: all that their experts make of them or, where experts are spread, what leaves for them and comes back.
  ExpertRows rows;
  SwigluActivations shared;
  // Computed again. The input is quantised once, before it is dispatched, with scales that are powers of two [V3 §3.3.3]: what
  // travels is codes and scales, and the shared expert reads the same.
  core::Mat logits_TE;  // accumulator type
  LinearInput h_TD;     // the gate reads the numbers

  void take(const Stores& stores, const ModelConfig& config, std::int64_t tokens, std::int64_t sequences);
};

struct MoeGradients {
  LinearInput dout_TD;      // codes alone, of FP8 runs: made before the dispatch, with scales that are powers of two
  ExpertRowGradients rows;  // of these tokens' slots, as above
  SenderGradients senders;  // where experts are spread
  core::Mat dweights_TK, dlogits_TE, dh_TD;
  SwigluGradients shared;
  void take(const Stores& stores, const ModelConfig& config, std::int64_t tokens);
};

// The four phases of a block that concern the experts (the first is the end of `attention`), forward …
// Returns Σ f·P of the sequence-wise balance loss.
double moe_choose(const Run& run, const BlockSlabs& slabs, core::ConstMat mid_TD, MoeActivations& acts);
void moe_dispatch(const Run& run, std::int64_t layer, MoeActivations& acts);
// Leaves residual + shared experts in out; combine adds the routed ones.
void moe_experts(const Run& run, const BlockSlabs& slabs, std::int64_t layer, core::ConstMat mid_TD, MoeActivations& acts,
                 core::Mat out_TD);
void moe_combine(const Run& run, core::ConstMat mid_TD, const MoeActivations& acts, core::Mat out_TD);

// … and backward to the input. dmid = dout + the gradient through the layer.
void moe_combine_backward(const Run& run, const BlockSlabs& slabs, std::int64_t layer, core::ConstMat mid_TD, MoeActivations& acts,
                          core::ConstMat dout_TD, MoeGradients& grads);
void moe_experts_backward(const Run& run, const BlockSlabs& slabs, std::int64_t layer, MoeActivations& acts, core::ConstMat dout_TD,
                          MoeGradients& grads);
void moe_dispatch_backward(const Run& run, const MoeActivations& acts, MoeGradients& grads);
void moe_choose_backward(const Run& run, const BlockSlabs& slabs, core::ConstMat mid_TD, const MoeActivations& acts, double balance_scale,
                         core::ConstMat dout_TD, MoeGradients& grads, core::Mat dmid_TD);

void moe_backward_weight(const Run& run, const BlockSlabs& slabs, std::int64_t layer, core::ConstMat mid_TD, const MoeActivations& acts,
                         core::ConstMat dout_TD, const MoeGradients& grads);

}  // namespace finback::model
