// finback plan: what a run would need, before it is started.
#include "cli/command.h"
#include "core/file.h"
#include "core/json.h"
#include "plan/memory_report.h"
#include "plan/schedule_svg.h"
#include "plan/schedule_text.h"
#include "plan/schedule_trace.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

namespace finback::cli {
namespace {

constexpr int kPlainColumns = 120;

int terminal_columns() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kPlainColumns;
}

// To a file, whose kind its name says, or all three into a folder.
void write_pictures(const plan::ScheduleReport& report, const std::string& out) {
  const auto one = [&](const std::string& path) {
    if (path.ends_with(".svg")) core::write_file_atomic(path, plan::draw_svg(report));
    else if (path.ends_with(".txt")) core::write_file_atomic(path, plan::draw_text(report, kPlainColumns, /*colour=*/false));
    else plan::write_schedule_trace(path, report);
  };
  if (out.ends_with(".svg") || out.ends_with(".txt") || out.ends_with(".json")) return one(out);
  core::make_directories(out);
  for (const char* name : {"/schedule.svg", "/schedule.txt", "/trace.json"}) one(out + name);
}

void add_schedule(CLI::App& plan) {
  struct Options {
    std::string kind = "dualpipe", out;
    int ranks = 8, micro_batches = 20;
    plan::Durations durations;
    bool json = false;
  };
  auto* command = plan.add_subcommand("schedule", "Draws a pipeline schedule; its bubble and its peak of activations, simulated");
  const auto o = std::make_shared<Options>();
  command->add_option("--kind", o->kind, "1f1b, zb1p, dualpipe or dualpipev")->capture_default_str();
  command->add_option("--ranks", o->ranks, "pipeline ranks (parallel.pp)")->capture_default_str();
  command->add_option("--micro-batches", o->micro_batches, "of one pipeline and step")->capture_default_str();
  command->add_option("--forward", o->durations.forward, "time of a forward of one stage")->capture_default_str();
  command->add_option("--backward-input", o->durations.backward_input, "… of a backward to the input")->capture_default_str();
  command->add_option("--backward-weight", o->durations.backward_weight, "… of a backward to the weights")->capture_default_str();
  command->add_option("--pair", o->durations.pair, "… of an overlapped forward and backward [their sum]");
  command->add_option("--transfer", o->durations.transfer, "… from a stage's result until the next rank has it")->capture_default_str();
  command->add_option("--out", o->out, "a .svg, .txt or .json (trace) file, or a folder for all three");
  command->add_flag("--json", o->json, "one JSON object: length, bubble, peak, published figures, per rank");
  command->footer("Example:\n  finback plan schedule --kind dualpipe --ranks 8 --micro-batches 20 --out schedule.svg");
  command->callback([o] {
    const auto report = plan::report_schedule(parallel::schedule_kind_of(o->kind), o->ranks, o->micro_batches, o->durations);
    if (!o->out.empty()) write_pictures(report, o->out);
    if (o->json) fmt::print("{}", core::pretty_json(to_json(report)));
    else fmt::print("{}", plan::draw_text(report, terminal_columns(), ::isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr));
  });
}

void add_memory(CLI::App& plan) {
  struct Options {
    std::string model, kind = "1f1b", precision = "bf16", storage = "bf16", moments = "bf16";
    parallel::TrainingShape shape;
    bool json = false;
  };
  auto* command = plan.add_subcommand("memory", "The bytes that training takes on each rank of a layout, by kind");
  const auto o = std::make_shared<Options>();
  o->shape.seq_len = 4096;
  command->add_option("--model", o->model, "a config.json, or a folder that has one")->required();
  command->add_option("--pp", o->shape.layout.pp, "pipeline ranks (parallel.pp)")->capture_default_str();
  command->add_option("--dp", o->shape.layout.dp, "data-parallel ranks of a stage (parallel.dp)")->capture_default_str();
  command->add_option("--ep", o->shape.layout.ep, "ranks that share a layer's experts (parallel.ep)")->capture_default_str();
  command->add_option("--kind", o->kind, "1f1b, zb1p, dualpipe or dualpipev")->capture_default_str();
  command->add_option("--micro-batches", o->shape.micro_batches, "of a rank and step")->capture_default_str();
  command->add_option("--micro-batch", o->shape.sequences, "sequences of one")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  command->add_option("--seq-len", o->shape.seq_len, "tokens of a sequence")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  command->add_option("--precision", o->precision, "fp32, bf16 or fp8")->capture_default_str();
  command->add_option("--activation-storage", o->storage, "full, bf16, fp8 or paper")->capture_default_str();
  command->add_option("--moments", o->moments, "bf16 or fp32")->check(CLI::IsMember({"bf16", "fp32"}))->capture_default_str();
  command->add_flag("--json", o->json, "one JSON object");
  command->footer(
      "Example:\n  finback plan memory --model configs/models/small.json --pp 4 --dp 8 --ep 8 --kind dualpipe --micro-batches 16");
  command->callback([o] {
    parallel::TrainingShape& s = o->shape;
    s.config = model::read_config(o->model);
    s.schedule = parallel::schedule_kind_of(o->kind);
    s.precision = model::precision_of(o->precision);
    s.storage = model::activation_storage_of(o->storage);
    s.moments = o->moments == "fp32" ? core::DType::f32 : core::DType::bf16;
    const auto report = plan::report_memory(s);
    fmt::print("{}", o->json ? core::pretty_json(to_json(report)) : describe(report));
  });
}

}  // namespace

void add_plan(CLI::App& app) {
  auto* plan = app.add_subcommand("plan", "What a run would need and how it would go, before it is started");
  plan->require_subcommand(1);
  add_schedule(*plan);
  add_memory(*plan);
}

}  // namespace finback::cli
