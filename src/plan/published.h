// The bubble and the peak of activations that the schedules' authors publish (DeepSeek-V3 report, table 2; README of
// deepseek-ai/DualPipe; Qi et al., arXiv 2401.10241, §3.1), to be held against the simulated list.
//
//   PP stages, B = B_input + W             bubble                        peak, activations of a stage
//   1f1b                                   (PP − 1)(F + B)               min(PP, N)
//   zb1p       N ≥ PP, W ≤ F, W ≤ B_input  (PP − 1)(F + B − 2W)          PP
//   dualpipe   N ≥ 2·PP, F = B_input = W   (PP/2 − 1)(F&B + B − 3W)      PP + 1
//   dualpipev  likewise, on PP/2 ranks: N ≥ PP
#pragma once

#include "plan/simulate.h"

#include <optional>

namespace finback::plan {

struct Published {
  double bubble = 0;
  int peak = 0;
};

// Nothing where the formulas do not hold (the conditions above, and transfer = 0).
// The second and third conditions of zb1p are no fault of the list: with at most PP activations alive, rank 0 waits (PP − 1) · B_input
// for its first gradient, which is more than the formula unless W ≤ F.
std::optional<Published> published(parallel::ScheduleKind kind, int ranks, int micro_batches, const Durations& durations);

}  // namespace finback::plan
