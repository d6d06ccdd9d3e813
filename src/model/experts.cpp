#include "model/experts.h"

namespace finback::model {

core::DType gradient_format(const Precision& p) { return p.fp8 ? p.fp8->gradient_format : p.storage; }

LinearInput take_slots(core::Arena& arena, const Precision& precision, core::DType format, std::int64_t S, std::int64_t D) {
  if (precision.fp8) return {{}, take_codes(arena, format, S, D), /*power_of_two=*/true};
  return {arena.take_mat(precision.storage, S, D), {}};
}

void experts_forward(const Run& run, const BlockSlabs& s, ExpertRows& r) {
  linear_forward(run, r.x_SD, s.expert_gate_up, r.offsets, {}, r.gu_SX.plain);
  r.gu_SX.keep(run);
  run.k().swiglu_forward(run.ctx, r.gu_SX.plain, r.slot_weight_1S, r.act_SF.plain);
  quantise(run, r.act_SF);
  linear_forward(run, r.act_SF, s.expert_down, r.offsets, {}, r.y_SD);
}

void experts_again(const Run& run, ExpertRows& r) {
  r.gu_SX.restore(run);
  run.k().swiglu_forward(run.ctx, r.gu_SX.plain, r.slot_weight_1S, r.act_SF.plain);
  quantise(run, r.act_SF);
}

void experts_backward_input(const Run& run, const BlockSlabs& s, const ExpertRows& r, ExpertRowGradients& g) {
  linear_backward_input(run, g.dy_SD, s.expert_down, r.offsets, {}, g.dact_SF);
  run.k().swiglu_backward(run.ctx, g.dact_SF, r.gu_SX.plain, r.slot_weight_1S, g.dgu_SX, g.dweight_1S);
  linear_backward_input(run, g.dgu_SX, s.expert_gate_up, r.offsets, {}, g.dx_SD);
}

void experts_backward_weight(const Run& run, const BlockSlabs& s, const ExpertRows& r, const ExpertRowGradients& g) {
  linear_backward_weight(run, g.dy_SD, r.act_SF, s.expert_down, r.offsets);
  linear_backward_weight(run, g.dgu_SX, r.x_SD, s.expert_gate_up, r.offsets);
}

}  // namespace finback::model
