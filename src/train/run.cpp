#include "train/run.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "core/machine.h"
#include "kernels/traced.h"
#include "model/flops.h"
#include "model/kept.h"
#include "train/checkpoint_writer.h"
#include "train/evaluation.h"
#include "train/monitor.h"
#include "train/recipe.h"
#include "train/run_directory.h"
#include "train/trainer.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <thread>

namespace finback::train {

namespace json = boost::json;
using core::Error;
using core::Exit;

namespace {

int threads_of(const RunConfig& run) { return run.train.threads > 0 ? static_cast<int>(run.train.threads) : core::this_machine().cores; }

core::DType moments_of(const RunConfig& run) { return run.optimizer.moments == "bf16" ? core::DType::bf16 : core::DType::f32; }

std::int64_t snapshot_bytes(const RunConfig& run, const model::ParameterList& list) {
  return in_pages(Snapshot::bytes_needed(list, precision_of(run), moments_of(run)));
}

MemoryByKind memory_of(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list) {
  MemoryByKind need = Trainer::memory_needed(run, config, list, threads_of(run));
  need.snapshot = snapshot_bytes(run, list);
  need.program = resident_bytes();
  return need;
}

void check_memory(const MemoryByKind& need, const RunConfig& run) {
  const std::int64_t available = core::this_machine().available_bytes;
  if (available > 0 && need.total() > available)
    throw Error(Exit::usage,
                fmt::format("the run needs {:.2f} GiB of memory, {:.2f} GiB are available", static_cast<double>(need.total()) / (1 << 30),
                            static_cast<double>(available) / (1 << 30)),
                run.model.config, "lower train.micro_batch or data.seq_len, or train a smaller model (--check shows the memory by kind)");
}

text::Tokenizer load_tokenizer(const RunConfig& run, const model::ModelConfig& config) {
  text::Tokenizer tokenizer = text::Tokenizer::load(run.data.tokenizer);
  if (tokenizer.vocab_size() > config.vocab_size)
    throw Error(Exit::usage, fmt::format("the tokenizer has {} ids, vocab_size is {}", tokenizer.vocab_size(), config.vocab_size),
                run.model.config, "use the tokenizer that the model is made for");
  return tokenizer;
}

data::Stream open_data(const RunConfig& run, const model::ModelConfig& config, const text::Tokenizer& tokenizer) {
  data::StreamOptions o;
  o.seq_len = run.data.seq_len;
  o.vocab_size = config.vocab_size;
  o.seed = static_cast<std::uint64_t>(run.train.seed);
  o.eos_id = static_cast<std::int32_t>(config.eos_token_id);
  o.fim_rate = run.data.fim_rate;
  if (const auto fim = tokenizer.fim()) o.fim = {fim->begin, fim->hole, fim->end};
  o.token_split_rate = run.data.token_split_rate;
  if (o.token_split_rate > 0) o.splits = data::SplitTable(tokenizer.vocabulary().tokens);
  return {run.data.train, run.data.weights, std::move(o)};
}

Provenance provenance_of(const RunConfig& run, const RunOptions& options, data::Stream& stream) {
  Provenance p{options.build, std::string(kernels::best().name), fmt::format("one process, micro_batch {}", run.train.micro_batch), {}};
  std::int64_t tokens = 0;
  for (const data::Source& s : stream.sources()) tokens += s.file().tokens();
  p.data = {{"tokens", tokens}, {"fingerprint", stream.fingerprint()}};
  return p;
}

// One run. Members stand in the order in which they need each other.
class Run {
 public:
  Run(const RunConfig& run, const RunOptions& options)
      : run_(run),
        options_(options),
        config_(model::read_config(run.model.config)),
        list_(model::list_parameters(config_)),
        lock_((check_memory(memory_of(run, config_, list_), run), run.output.dir)),
        tokenizer_(load_tokenizer(run, config_)),
        stream_(open_data(run, config_, tokenizer_)),
        memory_(memory_of(run, config_, list_)),
        team_(threads_of(run)),
        traced_(kernels::best()),
        trainer_(
            run, config_, list_, team_, options.spans ? traced_ : kernels::best(),
            [this](std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
              stream_.fill(first, inputs, targets);
            },
            options.spans),
        snapshot_(list_, precision_of(run), moments_of(run)),
        content_{config_,
                 list_,
                 weights_type(run),
                 run.data.tokenizer,
                 to_toml(run),
                 run.train.seed,
                 provenance_of(run, options, stream_),
                 run.fp8.power_of_two_scales},
        checkpoints_(run.output.dir + "/checkpoints"),
        good_(begin()),
        writer_(checkpoints_, run.checkpoint.keep, content_, snapshot_, good_),
        monitor_(facts(), options.ceiling_flops, counters().step) {
    if (!run.data.valid.empty())
      evaluator_.emplace(run.data.valid, run.eval.tokens, run.data.seq_len, run.train.micro_batch, config_, tokenizer_);
  }

  Exit go();

 private:
  // auto: what the layers compute with.
  static core::DType weights_type(const RunConfig& run) {
    const std::string& name = run.checkpoint.dtype == "auto" ? run.train.precision : run.checkpoint.dtype;
    return name == "fp8" ? core::DType::e4m3 : name == "bf16" ? core::DType::bf16 : core::DType::f32;
  }
  Counters& counters() { return trainer_.state().counters; }
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

  const RunConfig run_;
  const RunOptions options_;
  const double started_ = core::seconds_now();
  const model::ModelConfig config_;
  const model::ParameterList list_;
  RunLock lock_;
  text::Tokenizer tokenizer_;
  data::Stream stream_;
  MemoryByKind memory_;
  core::Team team_;
  const kernels::TracedTable traced_;
  Trainer trainer_;
  Snapshot snapshot_;
  const CheckpointContent content_;
  const std::string checkpoints_;
  const std::string good_;
  CheckpointWriter writer_;
  Monitor monitor_;
  std::optional<Evaluator> evaluator_;
  StopSignals signals_;
  std::int64_t failures_seen_ = 0, saved_step_ = -1;
  std::optional<Evaluation> last_evaluation_;
  bool memory_told_ = false;
};

// Initial values, or those of the newest checkpoint; returns its path.
std::string Run::begin() {
  const bool used = !list_checkpoints(checkpoints_).empty();
  if (used && !options_.resume)
    throw Error(Exit::usage, "the folder holds checkpoints of a run", checkpoints_,
                "pass --resume to go on with it, or choose another output.dir");
  const auto newest = options_.resume ? newest_whole(checkpoints_) : std::nullopt;
  if (!newest) {
    if (options_.resume) core::inform("no checkpoint in {}: starting from the first step", checkpoints_);
    trainer_.state().initialise(config_, static_cast<std::uint64_t>(run_.train.seed), trainer_.context());
    return {};
  }
  const std::string before = read_checkpoint(newest->path, content_, {.allow_data_change = options_.allow_data_change}, trainer_.state());
  trainer_.state().refresh_weights(trainer_.context());
  try {
    const auto changed = differences(parse_run_config(before, newest->path), run_);
    if (!changed.empty()) core::inform("the run file changed since the checkpoint: {}", fmt::join(changed, "; "));
  } catch (const Error&) {  // keys of another version; the checkpoint itself says what matters
  }
  core::inform("resuming from {} (step {})", newest->path, counters().step);
  return newest->path;
}

RunFacts Run::facts() const {
  return {run_, config_, list_.total(), memory_, fmt::format("{}, {} threads", kernels::best().name, team_.threads())};
}

void Run::write_run_files() const {
  core::write_file_atomic(run_.output.dir + "/run.toml", to_toml(run_));
  core::write_file_atomic(run_.output.dir + "/config.json", core::pretty_json(model::to_json(config_)));
  const json::object facts = {
      {"build", options_.build},
      {"isa", kernels::best().name},
      {"threads", team_.threads()},
      {"parameters", list_.total()},
      {"flops_per_token", model::model_flops_per_token(config_, run_.data.seq_len, config_.num_nextn_predict_layers > 0)},
      {"ceiling_flops", options_.ceiling_flops},
      {"accounted_bytes", memory_.total()},
      {"process", ::getpid()}};
  core::write_file_atomic(run_.output.dir + "/run.json", core::pretty_json(facts));
}

Exit Run::go() {
  write_run_files();
  core::inform("{:.2f} million parameters, {} ({} threads)", static_cast<double>(list_.total()) / 1e6, kernels::best().name,
               team_.threads());
  if (counters().step > 0) monitor_.event(counters().step, fmt::format("resumed from {}", good_), /*warn=*/false);
  while (counters().step < run_.train.steps && !signals_.requested()) one_step();
  const bool finished = counters().step >= run_.train.steps;
  if (!finished) monitor_.event(counters().step, fmt::format("stopped by {}", signals_.name()), /*warn=*/false);
  save_for_good();
  if (finished && counters().bad_in_a_row > 0) throw_nonfinite();
  if (finished && (!last_evaluation_ || monitor_.history().evaluations.back().step != counters().step)) evaluate();
  monitor_.report(finished, /*now=*/true);
  summarise(finished);
  monitor_.finish_line();
  if (finished) core::inform("done: {}, report {}/report.html", good_now(), run_.output.dir);
  else core::inform("stopped after step {} by {}: {} holds it; go on with --resume", counters().step, signals_.name(), good_now());
  return finished ? Exit::done : Exit::stopped;
}

void Run::one_step() {
  const double begin = core::seconds_now();
  const StepReport report = trainer_.step();
  if (!memory_told_) tell_memory();
  handle(report);
  if (report.outcome == StepOutcome::rollback_wanted) return;
  monitor_.step(report, counters().tokens, core::seconds_now() - begin);
  const std::int64_t step = counters().step;
  const bool ends = step == run_.train.steps;
  if (run_.eval.every > 0 && (step % run_.eval.every == 0 || ends)) evaluate();
  watch_saves();
  const bool due = run_.checkpoint.every > 0 && step % run_.checkpoint.every == 0 && !ends;
  if (due && counters().bad_in_a_row == 0) save();
  monitor_.report(/*finished=*/false);
}

// After the first step, when it is known how much of their scratch the kernels use.
void Run::tell_memory() {
  const std::int64_t program = memory_.program;
  memory_ = trainer_.memory();
  memory_.snapshot = snapshot_bytes(run_, list_);
  memory_.program = program;
  monitor_.set_memory(memory_);
  core::inform("memory by kind:\n{}", describe(memory_));
  memory_told_ = true;
}

void Run::handle(const StepReport& r) {
  if (r.suspected_corruption)
    monitor_.event(r.step,
                   "the step gave other bits when it was computed again: suspected corruption in this machine's memory or processor",
                   /*warn=*/true);
  std::string scores =
      fmt::format("loss {:.4f} (z {:.1f}), gradient norm {:.4g} (z {:.1f})", r.loss, r.loss_zscore, r.grad_norm, r.norm_zscore);
  if (r.nonfinite_tiles > 0) scores += fmt::format(", {} FP8 tiles with a NaN or an infinity", r.nonfinite_tiles);
  switch (r.outcome) {
    case StepOutcome::updated:
      if (run_.guard.spike_zscore > 0 && std::max(r.loss_zscore, r.norm_zscore) > run_.guard.spike_zscore)
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
      if (counters().bad_in_a_row >= run_.guard.max_bad_steps) throw_nonfinite();
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
  if (past.rollbacks >= run_.guard.max_rollbacks)
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
  read_checkpoint(newest->path, content_, {.allow_data_change = options_.allow_data_change}, trainer_.state());
  trainer_.state().refresh_weights(trainer_.context());
  counters().sequences = past.sequences;
  counters().tokens = past.tokens;
  counters().rollbacks = past.rollbacks + 1;
  monitor_.event(r.step, fmt::format("rolled back to step {} after a spike: {}", counters().step, scores), /*warn=*/true);
}

void Run::evaluate() {
  if (!evaluator_) return;
  const core::SpanScope span(options_.spans, "evaluate");
  const auto e = evaluator_->run(trainer_, [this] { return signals_.requested(); });
  if (!e) return;
  last_evaluation_ = e;
  monitor_.evaluation(counters().step, *e);
}

void Run::save() {
  const core::SpanScope span(options_.spans, "save");
  writer_.save(trainer_.state(), trainer_.context());
  saved_step_ = counters().step;
}

void Run::watch_saves() {
  const std::int64_t failures = writer_.failures_in_a_row();
  if (failures > failures_seen_) monitor_.event(counters().step, fmt::format("saving failed: {}", writer_.last_error()), /*warn=*/true);
  failures_seen_ = failures;
  if (failures >= run_.checkpoint.tries)
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
  o["train_seconds"] = seconds;
  o["total_seconds"] = core::seconds_now() - started_;
  o["tokens_per_s"] = seconds > 0 && !h.steps.empty() ? static_cast<double>(h.steps.back().tokens) / seconds : 0;
  o["peak_rss_bytes"] = peak_resident_bytes();
  o["accounted_bytes"] = memory_.total();
  core::write_file_atomic(run_.output.dir + "/summary.json", core::pretty_json(o));
}

}  // namespace

Exit run_training(const RunConfig& run, const RunOptions& options) { return Run(run, options).go(); }

std::string check_run(const RunConfig& run) {
  const model::ModelConfig config = model::read_config(run.model.config);
  const model::ParameterList list = model::list_parameters(config);
  const MemoryByKind memory = memory_of(run, config, list);
  const core::Machine machine = core::this_machine();
  std::string out = describe(run);
  out += fmt::format("\nmodel: {:.2f} million parameters, {:.2f} million active a token, {:.1f} MFLOP a token\n",
                     static_cast<double>(list.total()) / 1e6, static_cast<double>(model::active_matmul_parameters(config, false)) / 1e6,
                     model::model_flops_per_token(config, run.data.seq_len, config.num_nextn_predict_layers > 0) / 1e6);
  out += fmt::format("kept from forward to backward, activation_storage = {}:\n{}", run.train.activation_storage,
                     model::describe_kept(config, precision_of(run), model::activation_storage_of(run.train.activation_storage)));
  out += fmt::format("memory by kind:\n{}this machine has {:.1f} MiB available\n", describe(memory),
                     static_cast<double>(machine.available_bytes) / (1 << 20));
  check_memory(memory, run);
  return out;
}

}  // namespace finback::train
