// The SwiGLU feed-forward: down(silu(gate(h)) · up(h)). Used by dense layers and by the shared experts.
#pragma once

#include "model/run.h"

namespace finback::model {

struct SwigluActivations {
  core::Mat gu_TX;   // [gate | up], kept
  core::Mat act_TF;  // computed again in backward when run.recompute
  void take(core::Arena& kept, core::Arena& again, Precision precision, std::int64_t tokens, std::int64_t width);
};

struct SwigluGradients {
  core::Mat dact_TF, dgu_TX;
  void take(core::Arena& arena, Precision precision, std::int64_t tokens, std::int64_t width);
};

// y = addend + swiglu(h)
void swiglu_forward(const Run& run, int gate_up, int down, core::ConstMat h_TD, core::ConstMat addend_TD, SwigluActivations& acts,
                    core::Mat y_TD);
// dh = gradient through the feed-forward
void swiglu_backward_input(const Run& run, int gate_up, int down, SwigluActivations& acts, core::ConstMat dy_TD, SwigluGradients& grads,
                           core::Mat dh_TD);
void swiglu_backward_weight(const Run& run, int gate_up, int down, core::ConstMat h_TD, const SwigluActivations& acts, core::ConstMat dy_TD,
                            const SwigluGradients& grads);

}  // namespace finback::model
