// Saves checkpoints while training goes on: a step's end copies the state into a snapshot, and one thread writes it out.
#pragma once

#include "core/background.h"
#include "train/checkpoint.h"

#include <cstdint>
#include <mutex>
#include <string>

namespace finback::train {

class CheckpointWriter {
 public:
  // `directory`: runs/X/checkpoints. `good`: the newest whole checkpoint there ("" for none).
  CheckpointWriter(std::string directory, std::int64_t keep, CheckpointContent content, Snapshot& snapshot, std::string good);
  CheckpointWriter(const CheckpointWriter&) = delete;

  // Copies the state and returns; waits only while the save before is not finished. Called by the training thread.
  // Over ranks the others call Snapshot::send_share() meanwhile.
  void save(const TrainState& state, const kernels::Context& ctx, parallel::Member* member = nullptr);

  // Until the save under way is finished. True if it succeeded (or there was none).
  bool wait();

  std::string last_good() const;           // "" before the first
  std::int64_t failures_in_a_row() const;  // reported on stderr as they happen
  std::string last_error() const;
  double seconds() const;  // that the last save took to write

 private:
  void write();

  const std::string directory_;
  const std::int64_t keep_;
  const CheckpointContent content_;
  Snapshot& snapshot_;  // the writer's while a save is under way, else the training thread's

  mutable std::mutex mutex_;  // guards what follows
  std::string good_, error_;
  std::int64_t failures_ = 0;
  double seconds_ = 0;

  core::Background background_;  // last: the save under way is finished before the rest goes
};

}  // namespace finback::train
