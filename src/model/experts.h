// The routed experts of this process and the slots that reach them: its own tokens', or, where a layer's experts are spread over ranks,
// those that each rank of the group sends (spread.h).
#pragma once

#include "model/swiglu.h"

namespace finback::model {

// Slots at the experts here, in the order (expert, token, choice).
struct ExpertRows {
  // Kept.
  std::span<std::int64_t> offsets;  // experts here + 1: where each expert's slots begin
  SwigluInput gu_SX;
  // Computed again; kept where they came from another rank.
  core::Mat slot_weight_1S;  // of the gate
  LinearInput x_SD;          // one half: codes where FP8 layers read them
  // Computed again.
  LinearInput act_SF;
  core::Mat y_SD;  // forward only

  std::int64_t slots() const { return offsets.back(); }
};

struct ExpertRowGradients {
  LinearInput dy_SD;  // one half, as x_SD
  core::Mat dact_SF, dgu_SX, dx_SD, dweight_1S;
};

// What a dispatch delivers: one row a slot.
LinearInput take_slots(core::Arena& arena, const Precision& precision, core::DType format, std::int64_t slots, std::int64_t D);
core::DType gradient_format(const Precision& precision);

void experts_forward(const Run& run, const BlockSlabs& slabs, ExpertRows& rows);
// What backward reads and forward did not keep: gu and act, from x.
void experts_again(const Run& run, ExpertRows& rows);
void experts_backward_input(const Run& run, const BlockSlabs& slabs, const ExpertRows& rows, ExpertRowGradients& grads);
void experts_backward_weight(const Run& run, const BlockSlabs& slabs, const ExpertRows& rows, const ExpertRowGradients& grads);

}  // namespace finback::model
