#include "train/run.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "core/machine.h"
#include "model/flops.h"
#include "model/kept.h"
#include "parallel/bytes.h"
#include "train/checkpoint_writer.h"
#include "train/layout.h"
#include "train/monitor.h"
#include "train/recipe.h"
#include "train/run_parts.h"
#include "train/worker.h"

#include <fmt/ranges.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

namespace finback::train {

namespace json = boost::json;
using core::Error;
using core::Exit;

namespace {

// One run, as its first rank has it.
class Run {
 public:
  Run(const RunConfig& run, const RunOptions& options)
      : parts_(run, options),
        snapshot_(list(), precision_of(run), moments_of(run), run.optimizer.ema_decay > 0),
        checkpoints_(run.output.dir + "/checkpoints"),
        good_(begin()),
        writer_(checkpoints_, run.checkpoint.keep, parts_.content, snapshot_, good_),
        monitor_(facts(), options.ceiling_flops, counters().step),
        stragglers_(work_of_ranks()) {}

  Exit go();

 private:
  const RunConfig& run() const { return parts_.run; }
  const model::ParameterList& list() const { return parts_.list; }
  Counters& counters() { return parts_.trainer.state().counters; }
  std::string where() const { return good_now().empty() ? "no checkpoint was saved" : "the last good checkpoint is " + good_now(); }
  std::string good_now() const { return writer_.last_good(); }

  std::string begin();
  RunFacts facts() const;
  void write_run_files() const;
  void one_step();
  void tell_memory();
  void handle(const StepReport& report);
  [[noreturn]] void throw_nonfinite();
  void roll_back(const StepReport& report);
  void evaluate();
  void save();
  void watch_saves();
  void save_for_good();
  void summarise(bool finished) const;
  std::string loss_bits() const;
  // Of each rank: the place in the pipeline, whose ranks do the same.
  std::vector<int> work_of_ranks() const {
    std::vector<int> places;
    for (int r = 0; parts_.member && r < parts_.ranks()->size(); ++r) places.push_back(parts_.member->mesh().at(r).pp);
    return places;
  }

  const double started_ = core::seconds_now();
  RunParts parts_;
  Snapshot snapshot_;
  const std::string checkpoints_;
  const std::string good_;
  CheckpointWriter writer_;
  Monitor monitor_;
  StopSignals signals_;
  Stragglers stragglers_;
  std::int64_t failures_seen_ = 0, saved_step_ = -1;
  std::optional<Evaluation> last_evaluation_;
  bool memory_told_ = false;
  std::uint64_t losses_ = 0;  // a hash of this process's
};

// Initial values, or those of the newest checkpoint; returns its path.
std::string Run::begin() {
  const bool used = !list_checkpoints(checkpoints_).empty();
  if (used && !parts_.options.resume)
    throw Error(Exit::usage, "the folder holds checkpoints of a run", checkpoints_,
                "pass --resume to go on with it, or choose another output.dir");
  const auto newest = parts_.options.resume ? newest_whole(checkpoints_) : std::nullopt;
  if (!newest) {
    if (parts_.options.resume) core::inform("no checkpoint in {}: starting from the first step", checkpoints_);
    give_order(parts_, Order::initialise);
    parts_.trainer.state().initialise(parts_.config, static_cast<std::uint64_t>(run().train.seed), parts_.trainer.context());
    return {};
  }
  give_order(parts_, Order::restore, newest->path);
  const std::string before = parts_.restore(newest->path);
  try {
    const auto changed = differences(parse_run_config(before, newest->path), run());
    if (!changed.empty()) core::inform("the run file changed since the checkpoint: {}", fmt::join(changed, "; "));
  } catch (const Error&) {  // keys of another version; the checkpoint itself says what matters
  }
  core::inform("resuming from {} (step {})", newest->path, counters().step);
  return newest->path;
}

RunFacts Run::facts() const {
  return {run(), parts_.config, list().total(), parts_.memory, fmt::format("{}, {} threads", kernels::best().name, parts_.team.threads())};
}

void Run::write_run_files() const {
  core::write_file_atomic(run().output.dir + "/run.toml", to_toml(run()));
  core::write_file_atomic(run().output.dir + "/config.json", core::pretty_json(model::to_json(parts_.config)));
  const json::object facts = {
      {"build", parts_.options.build},
      {"isa", kernels::best().name},
      {"threads", parts_.team.threads()},
      {"parameters", list().total()},
      {"flops_per_token", model::model_flops_per_token(parts_.config, run().data.seq_len, parts_.config.num_nextn_predict_layers > 0)},
      {"ceiling_flops", parts_.options.ceiling_flops},
      {"accounted_bytes", parts_.memory.total()},
      {"process", ::getpid()}};
  core::write_file_atomic(run().output.dir + "/run.json", core::pretty_json(facts));
}

Exit Run::go() {
  write_run_files();
  core::inform("{:.2f} million parameters, {} ({} threads)", static_cast<double>(list().total()) / 1e6, kernels::best().name,
               parts_.team.threads());
  if (counters().step > 0) monitor_.event(counters().step, fmt::format("resumed from {}", good_), /*warn=*/false);
  while (counters().step < run().train.steps && !signals_.requested()) one_step();
  const bool finished = counters().step >= run().train.steps;
  if (!finished) monitor_.event(counters().step, fmt::format("stopped by {}", signals_.name()), /*warn=*/false);
  save_for_good();
  if (finished && counters().bad_in_a_row > 0) throw_nonfinite();
  if (finished && (!last_evaluation_ || monitor_.history().evaluations.back().step != counters().step)) evaluate();
  monitor_.report(finished, /*now=*/true);
  summarise(finished);
  monitor_.finish_line();
  give_order(parts_, Order::end);
  if (finished) core::inform("done: {}, report {}/report.html", good_now(), run().output.dir);
  else core::inform("stopped after step {} by {}: {} holds it; go on with --resume", counters().step, signals_.name(), good_now());
  return finished ? Exit::done : Exit::stopped;
}

void Run::one_step() {
  const double begin = core::seconds_now();
  give_order(parts_, Order::step);
  const StepReport report = parts_.trainer.step();
  losses_ = XXH3_64bits_withSeed(&report.loss, sizeof report.loss, losses_);
  if (!memory_told_) tell_memory();
  handle(report);
  if (!report.rank_times.empty())
    for (const Stragglers::Slow& slow : stragglers_.add(report.rank_times))
      monitor_.event(report.step, describe(slow, parts_.ranks()->name(slow.rank)), /*warn=*/true);
  if (report.outcome == StepOutcome::rollback_wanted) return;
  monitor_.step(report, counters().tokens, core::seconds_now() - begin);
  const std::int64_t step = counters().step;
  const bool ends = step == run().train.steps;
  if (run().eval.every > 0 && (step % run().eval.every == 0 || ends)) evaluate();
  watch_saves();
  const bool due = run().checkpoint.every > 0 && step % run().checkpoint.every == 0 && !ends;
  if (due && counters().bad_in_a_row == 0) save();
  monitor_.report(/*finished=*/false);
}

// After the first step, when it is known how much of their scratch the kernels use.
void Run::tell_memory() {
  const std::int64_t program = parts_.memory.program;
  parts_.memory = parts_.trainer.memory();
  parts_.memory.snapshot = snapshot_bytes(run(), list());
  parts_.memory.program = program;
  monitor_.set_memory(parts_.memory);
  core::inform("memory by kind:\n{}", describe(parts_.memory));
  memory_told_ = true;
}

void Run::handle(const StepReport& r) {
  if (!r.suspects.empty()) {
    std::vector<std::string> where;
    for (const int rank : r.suspects) where.push_back(parts_.ranks() ? parts_.ranks()->name(rank) : "this machine");
    monitor_.event(r.step,
                   fmt::format("the step gave other bits when it was computed again: suspected corruption in the memory or processor of {}",
                               fmt::join(where, ", ")),
                   /*warn=*/true);
  }
  std::string scores =
      fmt::format("loss {:.4f} (z {:.1f}), gradient norm {:.4g} (z {:.1f})", r.loss, r.loss_zscore, r.grad_norm, r.norm_zscore);
  if (r.nonfinite_tiles > 0) scores += fmt::format(", {} FP8 tiles with a NaN or an infinity", r.nonfinite_tiles);
  switch (r.outcome) {
    case StepOutcome::updated:
      if (run().guard.spike_zscore > 0 && std::max(r.loss_zscore, r.norm_zscore) > run().guard.spike_zscore)
        monitor_.event(r.step, "spike: " + scores, /*warn=*/true);
      return;
    case StepOutcome::skipped_spike:
      monitor_.event(r.step, "skipped a spike: " + scores, /*warn=*/true);
      return;
    case StepOutcome::rollback_wanted:
      roll_back(r);
      return;
    case StepOutcome::skipped_nonfinite:
      monitor_.event(r.step, fmt::format("skipped: {} (number {} in a row)", scores, counters().bad_in_a_row), /*warn=*/true);
      if (counters().bad_in_a_row >= run().guard.max_bad_steps) throw_nonfinite();
  }
}

void Run::throw_nonfinite() {
  writer_.wait();
  monitor_.report(/*finished=*/false, /*now=*/true);
  throw Error(
      Exit::numeric, fmt::format("loss, gradient norm or FP8 tiles were NaN or infinite in the last {} steps", counters().bad_in_a_row),
      fmt::format("step {}; {}", counters().step, where()), "resume from it with a lower optimizer.lr, or look at the data of these steps");
}

// Back to the newest checkpoint, and on with the data that follows the spike.
void Run::roll_back(const StepReport& r) {
  const std::string scores =
      fmt::format("loss {:.4f} (z {:.1f}), gradient norm {:.4g} (z {:.1f})", r.loss, r.loss_zscore, r.grad_norm, r.norm_zscore);
  Counters past = counters();
  past.advance(r.sequences, r.tokens);
  if (past.rollbacks >= run().guard.max_rollbacks)
    throw Error(Exit::numeric, fmt::format("a spike after {} rollbacks: {}", past.rollbacks, scores),
                fmt::format("step {}; {}", r.step, where()), "lower optimizer.lr, or look at the data of these steps");
  writer_.wait();
  const auto newest = newest_whole(checkpoints_);
  if (!newest) {
    ++past.skipped;
    counters() = past;
    monitor_.event(r.step, "skipped a spike, there is no checkpoint to roll back to yet: " + scores, /*warn=*/true);
    return;
  }
  give_order(parts_, Order::restore, newest->path);
  parts_.restore(newest->path);
  counters().sequences = past.sequences;
  counters().tokens = past.tokens;
  counters().rollbacks = past.rollbacks + 1;
  monitor_.event(r.step, fmt::format("rolled back to step {} after a spike: {}", counters().step, scores), /*warn=*/true);
}

void Run::evaluate() {
  if (!parts_.evaluator) return;
  const core::SpanScope span(parts_.options.spans, "evaluate");
  give_order(parts_, Order::evaluate);
  const auto e = parts_.evaluator->run(
      parts_.trainer, [this] { return signals_.requested(); }, parts_.member.get());
  if (!e) return;
  last_evaluation_ = e;
  monitor_.evaluation(counters().step, *e);
}

void Run::save() {
  const core::SpanScope span(parts_.options.spans, "save");
  writer_.wait();
  give_order(parts_, Order::save);
  writer_.save(parts_.trainer.state(), parts_.trainer.context(), parts_.member.get());
  saved_step_ = counters().step;
}

void Run::watch_saves() {
  const std::int64_t failures = writer_.failures_in_a_row();
  if (failures > failures_seen_) monitor_.event(counters().step, fmt::format("saving failed: {}", writer_.last_error()), /*warn=*/true);
  failures_seen_ = failures;
  if (failures >= run().checkpoint.tries)
    throw Error(Exit::io, fmt::format("saving failed {} times in a row ({})", failures, writer_.last_error()),
                fmt::format("{}; {}", checkpoints_, where()), "make room or repair the disk, then resume");
}

// The last save of the process: tried again until it succeeds or the tries are used up.
void Run::save_for_good() {
  if (saved_step_ == counters().step && writer_.wait()) return;
  if (counters().bad_in_a_row > 0) {
    writer_.wait();
    monitor_.event(counters().step, "not saved: the last steps were NaN or infinite; " + where(), /*warn=*/true);
    return;
  }
  for (;;) {
    save();
    if (writer_.wait()) return;
    watch_saves();
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
}

// A hash of the losses of this process's steps and of the parameters, which were saved last: the same bits, the same hash.
std::string Run::loss_bits() const {
  std::uint64_t hash = losses_;
  for (const core::Mat& x : snapshot_.master.slabs) hash = XXH3_64bits_withSeed(x.data, static_cast<std::size_t>(x.bytes()), hash);
  return fmt::format("{:016x}", hash);
}

void Run::summarise(bool finished) const {
  const History& h = monitor_.history();
  const double seconds = h.training_seconds();
  json::object o;
  o["finished"] = finished;
  o["step"] = h.steps.empty() ? 0 : h.steps.back().step;
  o["train_loss"] = h.steps.empty() ? json::value(nullptr) : json::value(h.steps.back().loss);
  o["val_nats_per_token"] = nullptr;
  o["val_nats_per_char"] = nullptr;
  o["val_bits_per_byte"] = nullptr;
  o["mtp_acceptance"] = h.steps.empty() ? json::value(nullptr) : json::value(h.steps.back().mtp_acceptance);
  if (!h.evaluations.empty()) {
    const EvaluationRecord& e = h.evaluations.back();
    o["val_nats_per_token"] = e.nats_per_token;
    o["val_nats_per_char"] = e.nats_per_char;
    o["val_bits_per_byte"] = e.bits_per_byte;
    o["mtp_acceptance"] = e.mtp_acceptance;
  }
  o["loss_bits"] = loss_bits();
  o["train_seconds"] = seconds;
  o["total_seconds"] = core::seconds_now() - started_;
  o["tokens_per_s"] = seconds > 0 && !h.steps.empty() ? static_cast<double>(h.steps.back().tokens) / seconds : 0;
  o["peak_rss_bytes"] = peak_resident_bytes();
  o["accounted_bytes"] = parts_.memory.total();
  core::write_file_atomic(run().output.dir + "/summary.json", core::pretty_json(o));
}

}  // namespace

Exit run_training(const RunConfig& run, const RunOptions& options) {
  if (!options.ranks || options.ranks->rank() == 0) return Run(run, options).go();
  run_worker(run, options);
  return Exit::done;
}

namespace {

// Of the rank of a layout that needs most.
std::string describe_ranks(const RunConfig& run, const model::ModelConfig& config) {
  require_layout(run, config);
  const auto ranks = parallel::bytes_per_rank({.config = config,
                                               .precision = precision_of(run),
                                               .storage = model::activation_storage_of(run.train.activation_storage),
                                               .moments = moments_of(run),
                                               .sequences = run.train.micro_batch,
                                               .seq_len = run.data.seq_len,
                                               .micro_batches = micro_batches(run, run.train.global_batch),
                                               .layout = layout_of(run),
                                               .schedule = parallel::schedule_kind_of(run.parallel.schedule)},
                                              stages_of(run, config));
  const auto most = std::max_element(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) { return a.total() < b.total(); });
  const MemoryByKind memory{.weights = most->weights,
                            .master = most->master,
                            .moments = most->moments,
                            .gradients = most->gradients,
                            .activations = most->activations};
  return fmt::format("memory by kind, of rank {} of {}, which needs most; temporaries, exchange, snapshot and program come on top:\n{}",
                     most - ranks.begin(), ranks.size(), describe(memory));
}

}  // namespace

std::string check_run(const RunConfig& run) {
  const model::ModelConfig config = model::read_config(run.model.config);
  const model::ParameterList list = model::list_parameters(config);
  std::string out = describe(run);
  out += fmt::format("\nmodel: {:.2f} million parameters, {:.2f} million active a token, {:.1f} MFLOP a token\n",
                     static_cast<double>(list.total()) / 1e6, static_cast<double>(model::active_matmul_parameters(config, false)) / 1e6,
                     model::model_flops_per_token(config, run.data.seq_len, config.num_nextn_predict_layers > 0) / 1e6);
  out += fmt::format("kept from forward to backward, activation_storage = {}:\n{}", run.train.activation_storage,
                     model::describe_kept(config, precision_of(run), model::activation_storage_of(run.train.activation_storage)));
  if (run.parallel.pp * run.parallel.dp > 1) return out + describe_ranks(run, config);
  const MemoryByKind memory = memory_of(run, config, list);
  out += fmt::format("memory by kind:\n{}this machine has {:.1f} MiB available\n", describe(memory),
                     static_cast<double>(core::this_machine().available_bytes) / (1 << 20));
  check_memory(memory, run);
  return out;
}

}  // namespace finback::train
