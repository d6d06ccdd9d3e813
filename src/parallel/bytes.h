// What training takes on each rank, by kind, computed from shapes before anything is started.
//   weights      the compute copy of what the rank's stages hold, as codes and scales where layers are FP8; none where the masters serve,
//                which they do only if no other rank has a share of them
//   gradients    of the same, in the accumulator's type, summed over a step's micro-batches
//   master       the ZeRO-1 share (shards.h) among the ranks that hold the same slab (part.h)
//   moments      two of each master weight, shared likewise
//   activations  the schedule's peak times what the activation store keeps of a micro-batch on the larger of the rank's stages, tokens
//                spread evenly over the experts
// Not counted: temporaries, buffers of the exchange, the batch, the program.
#pragma once

#include "model/kept.h"
#include "parallel/mesh.h"
#include "parallel/schedule.h"
#include "parallel/stages.h"

#include <cstdint>
#include <vector>

namespace finback::parallel {

struct TrainingShape {
  model::ModelConfig config;
  model::Precision precision;
  model::ActivationStorage storage = model::ActivationStorage::bf16;
  core::DType moments = core::DType::bf16;
  std::int64_t sequences = 1, seq_len = 0;  // of a micro-batch
  int micro_batches = 1;                    // of a rank and step
  Layout layout;
  ScheduleKind schedule = ScheduleKind::one_f_one_b;
};

struct RankBytes {
  std::int64_t weights = 0, gradients = 0, master = 0, moments = 0, activations = 0;
  std::int64_t total() const { return weights + gradients + master + moments + activations; }
};

// [world] in rank order; ranks of one pipeline place differ in their shares alone. Throws Error(usage) as Mesh, make_schedule and
// check_storage do, and where EP does not divide the routed experts.
std::vector<RankBytes> bytes_per_rank(const TrainingShape& shape, const Stages& stages);

}  // namespace finback::parallel
