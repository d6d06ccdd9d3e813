// The layout of ranks that a run file asks for.
#pragma once

#include "parallel/member.h"
#include "train/run_config.h"

#include <memory>

namespace finback::train {

parallel::Layout layout_of(const RunConfig& run);
// The model cut for it.
parallel::Stages stages_of(const RunConfig& run, const model::ModelConfig& config);

// Throws Error(usage), naming the keys, for a layout that cannot be, experts that do not divide, or a schedule that does not exist for the
// micro-batches of one of the run's steps.
void require_layout(const RunConfig& run, const model::ModelConfig& config);

// This rank's place among those of `world`, all of which call it; `list` is of the whole model and outlives it. Throws Error(usage) where
// they are not as many as the layout has.
std::unique_ptr<parallel::Member> join(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list,
                                       comm::Communicator& world);

}  // namespace finback::train
