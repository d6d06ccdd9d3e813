// Speed of a repeated call, beside the machine's ceiling measured in the same breath.
#pragma once

#include "core/team.h"
#include "core/tensor.h"
#include "measure/ceiling.h"

#include <functional>

namespace finback::measure {

struct Speed {
  int repetitions = 0;
  double gflops = 0, best_gflops = 0;  // the median and the best burst
  double ceiling_gflops = 0;           // of the same threads and type, the median of those measured between the bursts
  double share_of_ceiling = 0;         // the median over bursts of a burst's rate ÷ the mean of the ceilings just before and after
};

// Calls `call`, which does `flops` operations, for about `seconds`, the ceiling being measured for as long between the calls.
Speed speed_of(core::Team& team, Rate rate, double flops, double seconds, const std::function<void()>& call);

// Small numbers that neither overflow nor become denormal; their values are of no interest. f32 or bf16.
void fill(core::Mat m);

}  // namespace finback::measure
