// A whole training run: data, model, loop, checkpoints, evaluation and what is shown of them.
#pragma once

#include "comm/communicator.h"
#include "core/error.h"
#include "core/spans.h"
#include "train/run_config.h"

#include <string>

namespace finback::train {

struct RunOptions {
  bool resume = false;
  bool allow_data_change = false;
  double ceiling_flops = 0;             // floating-point operations a second that this machine reaches in the run's precision; 0: not known
  std::string build;                    // version and compiler, kept in checkpoints
  core::Spans* spans = nullptr;         // records where the steps' time goes
  comm::Communicator* ranks = nullptr;  // this is one of its ranks, all of which call run_training(); null: one process
  bool as_layout = false;               // one process that forms its sums as the ranks of [parallel] would
};

// Exit::done, or Exit::stopped when a signal came and a checkpoint was saved (the first rank alone tells). Throws core::Error.
core::Exit run_training(const RunConfig& run, const RunOptions& options);

// What `train --check` prints: every value with its default, the model's size, the memory by kind and what this machine has.
// Throws Error(usage) like run_training would.
std::string check_run(const RunConfig& run);

}  // namespace finback::train
