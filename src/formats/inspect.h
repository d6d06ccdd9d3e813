// What a path holds, and whether it is whole: behind `finback inspect` and `finback verify`.
#pragma once

#include "formats/hf_folder.h"
#include "model/params.h"

#include <cstdint>
#include <string>
#include <vector>

namespace finback::formats {

struct ParameterCounts {
  std::int64_t total = 0;             // of the main model, embedding and head included
  std::int64_t active = 0;            // of them, what one token is multiplied with: the chosen experts alone of each layer
  std::int64_t active_embedding = 0;  // of these, the embedding, which is looked up and not multiplied
  std::int64_t mtp = 0;               // of the MTP modules beside the main model; what they share counts there
};
ParameterCounts count_parameters(const model::ModelConfig& config, const model::ParameterList& list);

// Tensors whose names differ in numbers alone, as one line: "model.layers.{1-5}.mlp.experts.{0-15}.up_proj.weight".
struct TensorGroup {
  std::string name, dtype, shape;
  std::int64_t tensors = 0;
  std::uint64_t bytes = 0;  // of all
};
std::vector<TensorGroup> group_tensors(const std::vector<const TensorInfo*>& tensors);

enum class Kind { checkpoint, model, safetensors, tokens };
std::string_view name_of(Kind kind);

// The state of one thing that was verified.
struct Verified {
  std::string path;
  Kind kind = Kind::model;
  bool has_checksums = false;  // a manifest stood beside it: every byte was compared
  std::uint64_t files = 0, bytes = 0;
  std::vector<std::string> faults;  // one line each; empty: whole
};

// Verifies a checkpoint, a model folder, a run's folder (every checkpoint in it), a .safetensors file or a pair of token files. Where
// there is no manifest the structure alone can be held against config.json. With check_values every floating-point
// value is read too, and NaN and infinity are faults. Throws Error(io) if there is nothing of these at `path`.
std::vector<Verified> verify(const std::string& path, bool check_values);

}  // namespace finback::formats
