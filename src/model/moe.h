// DeepSeekMoE [V3 §2.1.2, Eq. 12–20]: the gate chooses K routed experts a token; each expert is a SwiGLU whose output is
// weighted by the gate (the weight is applied after SwiGLU, before the down projection); shared experts see every token.
// No token is ever dropped.
#pragma once

#include "model/run.h"
#include "model/swiglu.h"

namespace finback::model {

// Which slot each (token, choice) takes. Slots are ordered by (expert, token, choice): S = T · K of them.
struct Routing {
  core::Mat ids_TK;                    // i32, ascending in each row
  core::Mat token_slots_TK;            // i32
  core::Mat weights_TK;                // accumulator type
  core::Mat slot_weight_1S;            // the same, in slot order
  std::span<std::int64_t> offsets;     // E + 1: where each expert's slots begin
  std::span<std::int32_t> slot_token;  // S

  void take(core::Arena& kept, const ModelConfig& config, Precision precision, std::int64_t tokens);
};

// Fills offsets, slot_token, token_slots and slot_weight from ids and weights.
void assign_slots(Routing& routing, std::int64_t experts);

struct MoeActivations {
  // Kept.
  Routing routing;
  core::Mat logits_TE;  // accumulator type
  core::Mat balance_f;  // [sequences, E]
  core::Mat gu_SX;      // [gate | up] of the routed experts
  SwigluActivations shared;
  // Computed again.
  core::Mat h_TD, x_SD, act_SF;
  core::Mat y_SD;  // forward only

  void take(core::Arena& kept, core::Arena& again, core::Arena& work, const ModelConfig& config, Precision precision, std::int64_t tokens,
            std::int64_t sequences);
};

struct MoeGradients {
  core::Mat dy_SD, dact_SF, dgu_SX, dx_SD, dweight_1S, dweights_TK, dlogits_TE, dh_TD;
  SwigluGradients shared;
  void take(core::Arena& arena, const ModelConfig& config, Precision precision, std::int64_t tokens);
};

// The four phases of a block that concern the experts (the first is the end of `attention`), forward …
// Returns Σ f·P of the sequence-wise balance loss.
double moe_choose(const Run& run, const BlockSlabs& slabs, core::ConstMat mid_TD, MoeActivations& acts);
void moe_dispatch(const Run& run, MoeActivations& acts);
// Leaves residual + shared experts in out; combine adds the routed ones.
void moe_experts(const Run& run, const BlockSlabs& slabs, core::ConstMat mid_TD, MoeActivations& acts, core::Mat out_TD);
void moe_combine(const Run& run, core::ConstMat mid_TD, const MoeActivations& acts, core::Mat out_TD);

// … and backward to the input. dmid = dout + the gradient through the layer.
void moe_combine_backward(const Run& run, const BlockSlabs& slabs, core::ConstMat mid_TD, MoeActivations& acts, core::ConstMat dout_TD,
                          MoeGradients& grads);
void moe_experts_backward(const Run& run, const BlockSlabs& slabs, MoeActivations& acts, core::ConstMat dout_TD, MoeGradients& grads);
void moe_dispatch_backward(const Run& run, const MoeActivations& acts, MoeGradients& grads);
void moe_choose_backward(const Run& run, const BlockSlabs& slabs, core::ConstMat mid_TD, const MoeActivations& acts, double balance_scale,
                         core::ConstMat dout_TD, MoeGradients& grads, core::Mat dmid_TD);

void moe_backward_weight(const Run& run, const BlockSlabs& slabs, core::ConstMat mid_TD, const MoeActivations& acts, core::ConstMat dout_TD,
                         const MoeGradients& grads);

}  // namespace finback::model
