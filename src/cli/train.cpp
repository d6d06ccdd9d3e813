// finback train RUN.toml
#include "cli/command.h"
#include "cli/output.h"
#include "comm/world.h"
#include "core/file.h"
#include "core/log.h"
#include "core/machine.h"
#include "formats/trace.h"
#include "measure/ceiling.h"
#include "measure/step_parts.h"
#include "train/run.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace finback::cli {
namespace {

struct Options {
  std::string file, trace;
  std::vector<std::string> set;
  bool check = false, json = false;
  int ranks = 1;
  std::string as_layout;
  std::int64_t recheck_every = 0;
  comm::Options comm;
  train::RunOptions run;
};

// Half a second of arithmetic, so that the live line can say what share of it training reaches.
double ceiling_flops(const train::RunConfig& run) {
  core::Team team(run.train.threads > 0 ? static_cast<int>(run.train.threads) : core::this_machine().cores);
  const auto rate = train::precision_of(run).storage == core::DType::bf16 ? measure::Rate::bf16 : measure::Rate::fp32;
  return 1e9 * measure::ceiling_of(team, rate, 0.5);
}

// "dp=2,ep=2" as overrides of the run file.
void add_layout(const std::string& layout, std::vector<std::string>& set) {
  for (std::size_t begin = 0; begin < layout.size();) {
    const std::size_t end = std::min(layout.find(',', begin), layout.size());
    set.push_back("parallel." + layout.substr(begin, end - begin));
    begin = end + 1;
  }
}

// The first rank's exit; nothing in a process that does not have it.
std::optional<core::Exit> train_ranks(const train::RunConfig& config, const Options& o) {
  if (o.ranks == 1 && !comm::under_launcher()) return train::run_training(config, o.run);
  std::optional<core::Exit> exit;
  comm::run_ranks(o.ranks, o.comm, [&](comm::Communicator& ranks) {
    train::RunOptions mine = o.run;
    mine.ranks = &ranks;
    if (ranks.rank() > 0) mine.spans = nullptr;
    const core::Exit code = train::run_training(config, mine);
    if (ranks.rank() == 0) exit = code;
  });
  return exit;
}

void run(Options& o) {
  add_layout(o.as_layout, o.set);
  if (o.recheck_every > 0) o.set.push_back(fmt::format("guard.recheck_every={}", o.recheck_every));
  o.run.as_layout = !o.as_layout.empty();
  const train::RunConfig config = train::read_run_config(o.file, o.set);
  if (o.check) {
    fmt::print("{}", train::check_run(config));
    return;
  }
  o.run.build = "finback " FINBACK_VERSION ", " __VERSION__;
  o.run.ceiling_flops = ceiling_flops(config);
  std::optional<core::Spans> spans;
  if (!o.trace.empty()) o.run.spans = &spans.emplace(core::kSpansOfARun);
  const std::optional<core::Exit> exit = train_ranks(config, o);
  if (!exit) return;
  if (spans) {
    formats::write_trace(o.trace, *spans);
    core::inform("{}", measure::describe(measure::fastest_step(*spans)));
    core::inform("the last steps' spans are in {}: open it at ui.perfetto.dev", o.trace);
  }
  if (o.json) write_output(core::read_file(config.output.dir + "/summary.json", 1 << 20));
  if (exit != core::Exit::done) throw CLI::RuntimeError(static_cast<int>(*exit));
}

}  // namespace

void add_train(CLI::App& app) {
  auto* command = app.add_subcommand("train", "Train a model as a run file says");
  const auto o = std::make_shared<Options>();
  command->add_option("RUN.toml", o->file, "the run file (docs/training.md)")->required();
  command->add_option("--set", o->set, "section.key=value, over the file's; may be repeated")->expected(1)->take_all();
  command->add_flag("--resume", o->run.resume, "go on from the newest checkpoint that is whole");
  command->add_flag("--allow-data-change", o->run.allow_data_change, "resume although the training data changed");
  command
      ->add_option("--ranks", o->ranks,
                   "ranks as threads of this process, as many as the layout of [parallel] has; a launcher says it itself")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--as-layout", o->as_layout, "dp=2: one process that forms its sums as these ranks would, and gives their bits");
  command->add_option("--timeout", o->comm.timeout, "seconds without anything moving after which a rank gives up")
      ->check(CLI::Range(0.1, 1e6))
      ->capture_default_str();
  command->add_flag("--checksums", o->comm.checksums, "of every message between ranks");
  command->add_option("--recheck-every", o->recheck_every, "K: compute every K-th step twice and compare the bits (guard.recheck_every)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  command->add_flag("--json", o->json, "print the summary when the run has ended; loss_bits is a hash of its losses and parameters");
  command->add_flag("--check", o->check, "print every value and the memory by kind; train nothing");
  command->add_option("--trace", o->trace, "a file (Chrome trace) for the spans of the last steps, down to kernels");
  command->footer(
      "Example:\n  finback train configs/runs/tiny.toml --set output.dir=runs/first --set train.steps=500\n"
      "Ctrl-C saves a checkpoint and ends with exit code 7; --resume goes on from there.");
  command->callback([o] { run(*o); });
}

}  // namespace finback::cli
