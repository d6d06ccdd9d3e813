// What `finback plan memory` says: the bytes that training takes on each rank (parallel/bytes.h), with the blocks of its stages.
#pragma once

#include "parallel/bytes.h"

#include <boost/json/object.hpp>

#include <string>
#include <vector>

namespace finback::plan {

struct MemoryReport {
  parallel::TrainingShape shape;
  parallel::Stages stages;
  std::vector<parallel::RankBytes> ranks;  // [PP] of each pipeline place, the rank that needs most
};

// Stages are cut by operations (parallel::cut_stages). Throws Error(usage) as parallel::bytes_per_rank.
MemoryReport report_memory(const parallel::TrainingShape& shape);

// A line for each pipeline place, and the largest.
std::string describe(const MemoryReport& report);

// layout (pp, dp, ep, world), schedule, micro_batches, tokens (of a micro-batch), largest_bytes, per_rank [PP] (stages, each with its first
// block and the one after its last; weights, gradients, master, moments, activations, total in bytes).
boost::json::object to_json(const MemoryReport& report);

}  // namespace finback::plan
