// What a run has shown so far: the lines of metrics.jsonl, in memory for the report. A resumed run reads them back up to its checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace finback::train {

struct StepRecord {
  std::int64_t step = 0, tokens = 0;  // tokens consumed so far
  double loss = 0, mtp_loss = 0, mtp_acceptance = 0, balance_loss = 0, grad_norm = 0, learning_rate = 0, imbalance = 0;
  double seconds = 0, tokens_per_s = 0, share_of_ceiling = 0;  // of this step; share 0: the ceiling is not known
  double nonfinite_tiles = 0;                                  // FP8 tiles that held a NaN or an infinity
};

struct EvaluationRecord {
  std::int64_t step = 0;
  double nats_per_token = 0, nats_per_char = 0, bits_per_byte = 0, mtp_loss = 0, mtp_acceptance = 0;
};

// What happened besides: a skipped step, a failed save, a resume.
struct EventRecord {
  std::int64_t step = 0;
  std::string text;
};

// Tokens sent to each expert of each MoE layer (layer by layer) since the record before.
struct LoadRecord {
  std::int64_t step = 0;
  std::vector<std::int64_t> load;
};

struct History {
  std::vector<StepRecord> steps;
  std::vector<EvaluationRecord> evaluations;
  std::vector<EventRecord> events;
  std::vector<LoadRecord> loads;

  // A record of a step that is there already (after a rollback) replaces that one and those after it.
  void add(const StepRecord& r);
  void add(const EvaluationRecord& r);
  void add(LoadRecord r);

  // Takes a line of metrics.jsonl in; lines of later steps than `last` and torn or foreign lines are left out. True if taken.
  bool add_line(std::string_view line, std::int64_t last);
  double training_seconds() const;  // in steps
};

// One line of metrics.jsonl each, with its newline. NaN and infinities are written as null.
std::string to_line(const StepRecord& r);
std::string to_line(const EvaluationRecord& r);
std::string to_line(const EventRecord& r);
std::string to_line(const LoadRecord& r);

}  // namespace finback::train
