// What a person sees of a run: the live line, metrics.jsonl, TensorBoard's events and report.html. Nothing here may stop training: a
// disk that refuses to take a line is warned of once.
#pragma once

#include "core/file.h"
#include "core/log.h"
#include "formats/tensorboard.h"
#include "train/evaluation.h"
#include "train/report.h"
#include "train/trainer.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace finback::train {

class Monitor {
 public:
  // ceiling_flops: the machine's measured floating-point operations a second in the run's precision; 0: not known. A run that
  // goes on gives the step it starts from: lines of later steps are dropped.
  Monitor(RunFacts facts, double ceiling_flops, std::int64_t first_step);

  void step(const StepReport& report, std::int64_t tokens_so_far, double seconds);
  void evaluation(std::int64_t step, const Evaluation& e);
  void event(std::int64_t step, std::string text, bool warn);
  // Writes report.html if it is time to (or `now`).
  void report(bool finished, bool now = false);
  void set_memory(const MemoryByKind& memory) { facts_.memory = memory; }
  void finish_line();

  const History& history() const { return history_; }

 private:
  void guarded(const std::function<void()>& write);
  std::string live_line(const StepReport& report) const;
  void add_load(const StepReport& report);

  RunFacts facts_;
  double ceiling_flops_;
  History history_;
  LoadRecord pending_load_;
  std::int64_t load_every_;
  double seconds_per_step_ = 0;  // moving average
  double tokens_per_s_ = 0, share_ = 0;
  double reported_at_ = 0;
  bool warned_ = false;
  std::optional<core::AppendFile> metrics_;
  std::optional<formats::EventWriter> events_;
  core::Progress progress_;
};

// "2h 5m", "3m 20s", "12s".
std::string duration(double seconds);

}  // namespace finback::train
