// The SwiGLU feed-forward: down(silu(gate(h)) · up(h)). Used by dense layers and by the shared experts.
#pragma once

#include "model/stores.h"

namespace finback::model {

// [gate | up], kept as it is, or as codes of which backward makes the numbers again.
struct SwigluInput {
  core::Mat plain;
  kernels::ScaledBuffer codes;
  void take(const Stores& stores, std::int64_t rows, std::int64_t width);
  void keep(const Run& run) const;     // after forward wrote plain
  void restore(const Run& run) const;  // before backward reads it
};

struct SwigluActivations {
  SwigluInput gu_TX;
  LinearInput act_TF;  // computed again in backward when run.recompute()
  void take(const Stores& stores, std::int64_t tokens, std::int64_t width);
};

struct SwigluGradients {
  core::Mat dact_TF, dgu_TX;
  void take(core::Arena& arena, const Precision& precision, std::int64_t tokens, std::int64_t width);
};

// y = addend + swiglu(h)
void swiglu_forward(const Run& run, int gate_up, int down, const Operand& h_TD, core::ConstMat addend_TD, SwigluActivations& acts,
                    core::Mat y_TD);
// dh = gradient through the feed-forward
void swiglu_backward_input(const Run& run, int gate_up, int down, SwigluActivations& acts, const Operand& dy_TD, SwigluGradients& grads,
                           core::Mat dh_TD);
void swiglu_backward_weight(const Run& run, int gate_up, int down, const Operand& h_TD, const SwigluActivations& acts, core::ConstMat dy_TD,
                            const SwigluGradients& grads);

}  // namespace finback::model
