#include "train/checkpoint_writer.h"

#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"

namespace finback::train {

CheckpointWriter::CheckpointWriter(std::string directory, std::int64_t keep, CheckpointContent content, Snapshot& snapshot,
                                   std::string good)
    : directory_(std::move(directory)),
      keep_(keep),
      content_(std::move(content)),
      snapshot_(snapshot),
      good_(std::move(good)),
      background_([this] { write(); }) {
  core::make_directories(directory_);
  prune_checkpoints(directory_, keep_);
}

void CheckpointWriter::save(const TrainState& state, const kernels::Context& ctx, parallel::Member* member) {
  wait();
  snapshot_.copy(state, ctx, member);
  background_.start();
}

bool CheckpointWriter::wait() {
  background_.wait();
  const std::lock_guard lock(mutex_);
  return failures_ == 0;
}

void CheckpointWriter::write() {
  const double begin = core::seconds_now();
  std::string written, error;
  try {
    written = write_checkpoint(directory_, content_, snapshot_);
    prune_checkpoints(directory_, keep_);
  } catch (const std::exception& e) {
    error = e.what();
    core::warn("saving the checkpoint of step {} failed: {}", snapshot_.counters.step, error);
  }
  const std::lock_guard lock(mutex_);
  failures_ = written.empty() ? failures_ + 1 : 0;
  if (!written.empty()) good_ = std::move(written);  // moved: an allocation that fails here would end the process
  error_ = std::move(error);
  seconds_ = core::seconds_now() - begin;
}

std::string CheckpointWriter::last_good() const {
  const std::lock_guard lock(mutex_);
  return good_;
}

std::int64_t CheckpointWriter::failures_in_a_row() const {
  const std::lock_guard lock(mutex_);
  return failures_;
}

std::string CheckpointWriter::last_error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

double CheckpointWriter::seconds() const {
  const std::lock_guard lock(mutex_);
  return seconds_;
}

}  // namespace finback::train
