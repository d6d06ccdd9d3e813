// What every rank of a run has: model, data and trainer. The first rank has the rest of the run besides (run.cpp); the others do as it
// says (worker.h).
#pragma once

#include "kernels/traced.h"
#include "train/checkpoint.h"
#include "train/evaluation.h"
#include "train/run.h"
#include "train/run_directory.h"
#include "train/trainer.h"

#include <memory>
#include <optional>

namespace finback::train {

std::int64_t snapshot_bytes(const RunConfig& run, const model::ParameterList& list);
// By kind, of the first rank.
MemoryByKind memory_of(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list,
                       const RunOptions& options = {}, const parallel::Member* member = nullptr);
// Throws Error(usage) where the machine has less.
void check_memory(const MemoryByKind& need, const RunConfig& run, const RunOptions& options = {});

// Members stand in the order in which they need each other.
struct RunParts {
  // The first rank holds the folder's lock. Throws Error(usage) where the ranks that were started are not those of the layout, and
  // Error(distributed) where they do not all run the same thing.
  RunParts(const RunConfig& run, const RunOptions& options);

  const RunConfig run;
  const RunOptions options;
  const model::ModelConfig config;
  const model::ParameterList list;           // of the whole model
  std::unique_ptr<parallel::Member> member;  // null: one process
  std::unique_ptr<RunLock> lock;             // of the first rank
  text::Tokenizer tokenizer;
  data::Stream stream;
  MemoryByKind memory;
  core::Team team;
  const kernels::TracedTable traced;
  Trainer trainer;
  const CheckpointContent content;
  std::unique_ptr<Evaluator> evaluator;  // null: nothing is held out

  comm::Communicator* ranks() const { return options.ranks; }
  bool first() const { return !ranks() || ranks()->rank() == 0; }

  // Fills the state, or this rank's share of it. Returns the run file that the checkpoint was written under.
  std::string restore(const std::string& checkpoint);
};

// What the first rank tells the others to do next, with all that must not differ between them.
struct Order {
  enum Kind : std::int64_t { initialise, restore, step, evaluate, save, end } kind = end;
  Counters counters;
  char path[1024] = {};  // of restore
};
void give_order(RunParts& parts, Order::Kind kind, const std::string& path = {});  // nothing in one process
Order take_order(RunParts& parts);

}  // namespace finback::train
