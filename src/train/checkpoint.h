// Checkpoints (docs/checkpoints.md). runs/X/checkpoints/step-00000200/ is a Hugging Face folder that any reader of such loads as it
// stands, and beside it train_state/: master weights, moments and counters, from which a run goes on with the same bits.
//
//   step-00000200/  config.json  model.safetensors  tokenizer.json …
//                   train_state/  state.json  master.safetensors  exp_avg.safetensors  exp_avg_sq.safetensors  manifest.json
//                   [ema.safetensors]
//
// It is written as step-00000200.tmp, every file flushed, the manifest with the checksums last; then renamed, then the symbolic
// link `latest` is replaced. A kill at any moment leaves the older checkpoints as they were.
#pragma once

#include "train/state.h"

#include <boost/json/object.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace finback::train {

constexpr std::int64_t kCheckpointFormat = 1;

// What a resumed run is compared with. The same values give the same bits.
struct Provenance {
  std::string build, isa, layout;
  boost::json::object data;  // file → tokens, of the training data
};

// The state of one moment, copied so that training goes on while it is written.
class Snapshot {
 public:
  // with_ema: of a state that keeps a moving average.
  Snapshot(const model::ParameterList& list, model::Precision precision, core::DType moments, bool with_ema = false);
  static std::int64_t bytes_needed(const model::ParameterList& list, model::Precision precision, core::DType moments,
                                   bool with_ema = false);

  // Throws Error(numeric) if a weight or moment is NaN or infinite: no such state is ever kept as good.
  // Over ranks, rank 0 puts the shares of all together here, and the others call send_share().
  void copy(const TrainState& state, const kernels::Context& ctx, parallel::Member* member = nullptr);
  static void send_share(const TrainState& state, parallel::Member& member);

  Counters counters;
  model::SlabBuffers master, m, v, ema;

 private:
  core::Arena arena_;
};

// All that is the same for every checkpoint of a run.
struct CheckpointContent {
  const model::ModelConfig& config;
  const model::ParameterList& list;
  core::DType weights;    // type of the Hugging Face weights: f32, bf16 or e4m3
  std::string tokenizer;  // tokenizer.json, or the folder of the tokenizer's files; empty: none
  std::string run_toml;
  std::int64_t seed = 0;
  Provenance provenance;
  bool power_of_two_scales = false;  // of e4m3 weights
};

// Writes directory/step-N and returns its path. Throws Error(io); nothing is left under the final name then.
std::string write_checkpoint(const std::string& directory, const CheckpointContent& content, const Snapshot& snapshot);

// Removes all but the newest `keep` checkpoints, and what an interrupted save left behind.
void prune_checkpoints(const std::string& directory, std::int64_t keep);

struct CheckpointEntry {
  std::int64_t step = 0;
  std::string path;
};
std::vector<CheckpointEntry> list_checkpoints(const std::string& directory);  // newest first; unfinished ones are not listed

// What is wrong with a checkpoint, one line each; empty: every byte is as written.
std::vector<std::string> faults_of(const std::string& checkpoint);

// The newest checkpoint without a fault; says which it skips and why. nullopt: the folder holds none at all. Throws
// Error(bad_input) when all of them are faulty.
std::optional<CheckpointEntry> newest_whole(const std::string& directory);

struct ResumeOptions {
  bool allow_data_change = false;
  bool quiet = false;  // another rank says what differs
};

// Fills state (masters and moments, or this rank's share of them; counters; the caller refreshes the compute copy). Throws Error(usage) for
// another model, listing the fields that differ, Error(bad_input) for changed data or a newer format. Says what else differs from `content`
// and goes on. Returns the run file that it was written under.
std::string read_checkpoint(const std::string& checkpoint, const CheckpointContent& content, const ResumeOptions& options,
                            TrainState& state);

}  // namespace finback::train
