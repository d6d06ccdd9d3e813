#include "model/swiglu.h"

#include "model/dense.h"

namespace finback::model {

using core::ConstMat;
using core::Mat;

void SwigluActivations::take(core::Arena& kept, core::Arena& again, Precision precision, std::int64_t T, std::int64_t F) {
  gu_TX = kept.take_mat(precision.storage, T, 2 * F);
  act_TF = again.take_mat(precision.storage, T, F);
}

void SwigluGradients::take(core::Arena& arena, Precision precision, std::int64_t T, std::int64_t F) {
  dact_TF = arena.take_mat(precision.storage, T, F);
  dgu_TX = arena.take_mat(precision.storage, T, 2 * F);
}

void swiglu_forward(const Run& run, int gate_up, int down, ConstMat h, ConstMat addend, SwigluActivations& acts, Mat y) {
  linear_forward(run, h, gate_up, {}, acts.gu_TX);
  run.k().swiglu_forward(run.ctx, acts.gu_TX, {}, acts.act_TF);
  linear_forward(run, acts.act_TF, down, addend, y);
}

void swiglu_backward_input(const Run& run, int gate_up, int down, SwigluActivations& acts, ConstMat dy, SwigluGradients& g, Mat dh) {
  if (run.recompute) run.k().swiglu_forward(run.ctx, acts.gu_TX, {}, acts.act_TF);
  linear_backward_input(run, dy, down, {}, g.dact_TF);
  run.k().swiglu_backward(run.ctx, g.dact_TF, acts.gu_TX, {}, g.dgu_TX, {});
  linear_backward_input(run, g.dgu_TX, gate_up, {}, dh);
}

void swiglu_backward_weight(const Run& run, int gate_up, int down, ConstMat h, const SwigluActivations& acts, ConstMat dy,
                            const SwigluGradients& g) {
  linear_backward_weight(run, dy, acts.act_TF, down);
  linear_backward_weight(run, g.dgu_TX, h, gate_up);
}

}  // namespace finback::model
