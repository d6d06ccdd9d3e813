// finback init: a model folder with initial values, tensor by tensor.
#pragma once

#include "convert/plan.h"
#include "core/team.h"

#include <string>

namespace finback::convert {

struct InitOptions {
  std::uint64_t seed = 1;
  Target target = Target::bf16;
  std::string tokenizer;  // as formats::SaveOptions::tokenizer
  std::uint64_t shard_bytes = kShardBytes;
};

// Writes model::initial_values of every parameter into `folder`, which may hold other files; those of a model that it held before
// are removed first. config.json comes last. Throws Error(io).
void initialise_folder(const std::string& folder, const model::ModelConfig& config, const InitOptions& options, core::Team& team);

}  // namespace finback::convert
