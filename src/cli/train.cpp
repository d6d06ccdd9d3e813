// finback train RUN.toml
#include "cli/command.h"
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
  bool check = false;
  train::RunOptions run;
};

// Half a second of arithmetic, so that the live line can say what share of it training reaches.
double ceiling_flops(const train::RunConfig& run) {
  core::Team team(run.train.threads > 0 ? static_cast<int>(run.train.threads) : core::this_machine().cores);
  const auto rate = train::precision_of(run).storage == core::DType::bf16 ? measure::Rate::bf16 : measure::Rate::fp32;
  return 1e9 * measure::ceiling_of(team, rate, 0.5);
}

void run(Options& o) {
  const train::RunConfig config = train::read_run_config(o.file, o.set);
  if (o.check) {
    fmt::print("{}", train::check_run(config));
    return;
  }
  o.run.build = "finback " FINBACK_VERSION ", " __VERSION__;
  o.run.ceiling_flops = ceiling_flops(config);
  std::optional<core::Spans> spans;
  if (!o.trace.empty()) o.run.spans = &spans.emplace(core::kSpansOfARun);
  const core::Exit exit = train::run_training(config, o.run);
  if (spans) {
    formats::write_trace(o.trace, *spans);
    core::inform("{}", measure::describe(measure::fastest_step(*spans)));
    core::inform("the last steps' spans are in {}: open it at ui.perfetto.dev", o.trace);
  }
  if (exit != core::Exit::done) throw CLI::RuntimeError(static_cast<int>(exit));
}

}  // namespace

void add_train(CLI::App& app) {
  auto* command = app.add_subcommand("train", "Train a model as a run file says");
  const auto o = std::make_shared<Options>();
  command->add_option("RUN.toml", o->file, "the run file (docs/training.md)")->required();
  command->add_option("--set", o->set, "section.key=value, over the file's; may be repeated")->expected(1)->take_all();
  command->add_flag("--resume", o->run.resume, "go on from the newest checkpoint that is whole");
  command->add_flag("--allow-data-change", o->run.allow_data_change, "resume although the training data changed");
  command->add_flag("--check", o->check, "print every value and the memory by kind; train nothing");
  command->add_option("--trace", o->trace, "a file (Chrome trace) for the spans of the last steps, down to kernels");
  command->footer(
      "Example:\n  finback train configs/runs/tiny.toml --set output.dir=runs/first --set train.steps=500\n"
      "Ctrl-C saves a checkpoint and ends with exit code 7; --resume goes on from there.");
  command->callback([o] { run(*o); });
}

}  // namespace finback::cli
