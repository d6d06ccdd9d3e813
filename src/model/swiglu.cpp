#include "model/swiglu.h"

namespace finback::model {

using core::ConstMat;
using core::Mat;

void SwigluInput::take(const Stores& stores, std::int64_t rows, std::int64_t width) {
  plain = (stores.keeps_codes() ? stores.again : stores.kept).take_mat(stores.precision.storage, rows, 2 * width);
  if (stores.keeps_codes()) codes = take_codes(stores.kept, core::DType::e4m3, rows, 2 * width);
}

void SwigluInput::keep(const Run& run) const {
  if (run.gradients) quantise(run, {plain, codes});
}

void SwigluInput::restore(const Run& run) const {
  if (codes.codes) run.k().dequantize_rows(run.ctx, codes, plain);
}

void SwigluActivations::take(const Stores& stores, std::int64_t T, std::int64_t F) {
  gu_TX.take(stores, T, F);
  act_TF = stores.take_input(T, F);
}

void SwigluGradients::take(core::Arena& arena, const Precision& precision, std::int64_t T, std::int64_t F) {
  dact_TF = arena.take_mat(precision.storage, T, F);
  dgu_TX = arena.take_mat(precision.storage, T, 2 * F);
}

void swiglu_forward(const Run& run, int gate_up, int down, const Operand& h, ConstMat addend, SwigluActivations& acts, Mat y) {
  linear_forward(run, h, gate_up, {}, acts.gu_TX.plain);
  acts.gu_TX.keep(run);
  run.k().swiglu_forward(run.ctx, acts.gu_TX.plain, {}, acts.act_TF.plain);
  quantise(run, acts.act_TF);
  linear_forward(run, acts.act_TF, down, addend, y);
}

void swiglu_backward_input(const Run& run, int gate_up, int down, SwigluActivations& acts, const Operand& dy, SwigluGradients& g, Mat dh) {
  if (run.recompute()) {
    acts.gu_TX.restore(run);
    run.k().swiglu_forward(run.ctx, acts.gu_TX.plain, {}, acts.act_TF.plain);
    quantise(run, acts.act_TF);
  }
  linear_backward_input(run, dy, down, {}, g.dact_TF);
  run.k().swiglu_backward(run.ctx, g.dact_TF, acts.gu_TX.plain, {}, g.dgu_TX, {});
  linear_backward_input(run, g.dgu_TX, gate_up, {}, dh);
}

void swiglu_backward_weight(const Run& run, int gate_up, int down, const Operand& h, const SwigluActivations& acts, ConstMat dy,
                            const SwigluGradients& g) {
  linear_backward_weight(run, dy, acts.act_TF, down);
  linear_backward_weight(run, g.dgu_TX, h, gate_up);
}

}  // namespace finback::model
