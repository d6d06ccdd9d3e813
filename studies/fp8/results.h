// What the study came to: read from the folders of its runs, kept as studies/fp8/results.json, read again by the page.
#pragma once

#include "studies/fp8/accumulation.h"

#include <boost/json/value.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace finback::studies {

struct Run {
  std::string name;      // KIND-SEED
  std::string settings;  // over studies/fp8/run.toml
  std::string isa;       // of the kernels: bits depend on it
  // Nats per token.
  std::vector<double> step, held_out;  // of each evaluation
  std::vector<double> training;        // means over kTrainingSteps steps each
  double nonfinite_tiles = 0;          // over all steps

  static constexpr int kTrainingSteps = 50;
};

// What a micro-batch keeps from forward to backward, in bytes a token.
struct Storage {
  std::string name;                // activation_storage
  double taken = 0, computed = 0;  // of the whole model: memory taken, and the sum of model/kept.h's list
  double layer = 0;                // memory taken by one MoE layer: the model without one of them takes so much less
};

struct Results {
  std::string text;  // what was trained on, a sentence or two
  std::int64_t train_tokens = 0, held_out_tokens = 0;
  std::int64_t planned = 0;  // runs; only complete ones are in the list
  std::vector<Run> runs;
  std::vector<Storage> storage;
  // Steps that storage-full-1 and storage-bf16-1 have both come to, complete or not; and those with equal losses and gradient norms.
  std::int64_t recomputed_steps = 0, recomputed_equal = 0;
  std::vector<AccumulationError> accumulation;

  const Run* find(std::string_view name) const;  // null where there is none
};

// What studies/fp8/run has left in the folder `work`, for the runs that the file `list` names. Throws Error(bad_input), Error(io).
Results collect(const std::string& list, const std::string& work);

boost::json::value to_json(const std::vector<AccumulationError>& errors);
boost::json::value to_json(const Results& results);
// Of to_json's making; throws Error(bad_input) otherwise.
Results from_json(const boost::json::value& value, const std::string& where);

}  // namespace finback::studies
