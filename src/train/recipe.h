// The recipe as pure functions of the step [V3 §4.2]: what a run does at step s follows from the run file alone, so a resumed run
// needs no schedule's state. Steps count from 0.
#pragma once

#include "core/tensor.h"
#include "train/run_config.h"

#include <cstdint>
#include <span>
#include <vector>

namespace finback::train {

// Linear from 0 to lr over warmup_steps (full at the last of them), lr for constant_steps, then the decay to min_lr, min_lr, and
// last_lr over the run's last last_steps.
double learning_rate(const RunConfig& config, std::int64_t step);

// The fewest sequences that the layout takes: a micro-batch for each rank of dp, and in DualPipe one from either end.
std::int64_t least_batch(const RunConfig& config);
// Sequences of the step: from ramp_from to global_batch, linear in steps, rounded to a multiple of least_batch.
std::int64_t batch_size(const RunConfig& config, std::int64_t step);
// Micro-batches of one rank of dp: of a step, and those that occur in the run.
int micro_batches(const RunConfig& config, std::int64_t sequences);
std::vector<int> all_micro_batches(const RunConfig& config);

// γ of the gate's bias; 0 from bias_freeze_step on.
double bias_update_speed(const RunConfig& config, std::int64_t step);

// λ of the MTP losses [V3 Eq. 25].
double mtp_loss_weight(const RunConfig& config, std::int64_t step);

// Balancing without an auxiliary loss [V3 §2.1.2]: the bias of an overloaded expert falls by `speed`, that of an underloaded one
// rises by it; one at the mean load rests. load_E: tokens sent to each expert in the whole batch of the step.
void update_gate_bias(std::span<const std::int64_t> load_E, double speed, core::Mat bias_1E /* f32 or f64 */);

// The busiest expert's load over the mean load (1: perfect balance; 0 when nothing was routed).
double load_imbalance(std::span<const std::int64_t> load_E);

}  // namespace finback::train
