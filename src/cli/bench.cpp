// finback bench: figures of this machine, each beside the ceiling that it is read under. One function per subcommand; gemm, exchange,
// decode and prefill have files of their own.
#include "cli/command.h"
#include "core/json.h"
#include "core/machine.h"
#include "kernels/kernels.h"
#include "measure/ceiling.h"
#include "measure/code_bench.h"
#include "measure/kernel_bench.h"
#include "measure/train_bench.h"

#include <memory>

namespace finback::cli {
namespace {

// What every subcommand of bench takes.
struct Options {
  int threads = core::this_machine().cores;
  double seconds = 1;
  bool json = false;
};

void add_options(CLI::App& command, Options& o) {
  command.add_option("--threads", o.threads, "threads (default: every core)")->check(CLI::Range(1, 1024));
  command.add_option("--seconds", o.seconds, "how long to measure")->check(CLI::Range(0.01, 3600.0))->capture_default_str();
  command.add_flag("--json", o.json, "one JSON object");
}

void bench_ceiling(const Options& o) {
  core::Team team(o.threads);
  const measure::Ceiling c = measure::ceiling(team, o.seconds);
  if (o.json) {
    fmt::print("{}", core::pretty_json(boost::json::object{{"threads", o.threads},
                                                           {"isa", kernels::best().name},
                                                           {"fp32_gflops", c.fp32_gflops},
                                                           {"bf16_gflops", c.bf16_gflops},
                                                           {"int8_gops", c.int8_gops},
                                                           {"memory_gb_per_s", c.memory_gb_per_s},
                                                           {"cache_gb_per_s", c.cache_gb_per_s}}));
    return;
  }
  fmt::print("{} threads, {}\n", o.threads, kernels::best().name);
  fmt::print("fp32    {:8.1f} GFLOPS\n", c.fp32_gflops);
  fmt::print("bf16    {:8.1f} GFLOPS\n", c.bf16_gflops);
  fmt::print("int8    {:8.1f} GOPS\n", c.int8_gops);
  fmt::print("memory  {:8.1f} GB/s\n", c.memory_gb_per_s);
  fmt::print("cache   {:8.1f} GB/s\n", c.cache_gb_per_s);
}

void add_bench_ceiling(CLI::App& bench) {
  auto* command = bench.add_subcommand("ceiling", "What the machine can reach: arithmetic, memory, cache");
  const auto o = std::make_shared<Options>();
  add_options(*command, *o);
  command->footer("Example:\n  finback bench ceiling --threads 1");
  command->callback([o] { bench_ceiling(*o); });
}

struct KernelOptions {
  measure::KernelBenchOptions bench;
  bool json = false;
};

void bench_kernels(KernelOptions& o) {
  if (o.bench.threads.empty()) {
    o.bench.threads = {1};
    if (const int cores = core::this_machine().cores; cores > 1) o.bench.threads.push_back(cores);
  }
  const std::vector<measure::KernelSpeed> speeds = measure::bench_kernels(o.bench);
  if (o.json) {
    boost::json::array kernels;
    for (const measure::KernelSpeed& s : speeds)
      kernels.push_back(boost::json::object{{"name", s.name},
                                            {"shape", s.shape},
                                            {"threads", s.threads},
                                            {"seconds", s.seconds},
                                            {"mib", s.mib},
                                            {"ceiling", s.ceiling},
                                            {"rate", s.rate},
                                            {"ceiling_rate", s.ceiling_rate},
                                            {"share_of_ceiling", s.share()}});
    fmt::print("{}", core::pretty_json(boost::json::object{{"model", o.bench.model},
                                                           {"precision", o.bench.precision},
                                                           {"batch", o.bench.batch},
                                                           {"seq", o.bench.seq_len},
                                                           {"isa", kernels::best().name},
                                                           {"kernels", std::move(kernels)}}));
    return;
  }
  fmt::print("{:26} {:7} {:>10} {:>8}  {:7} {:>9} {:>9} {:>8}  {}\n", "kernel", "threads", "time", "operands", "ceiling", "reached", "of",
             "share", "shape");
  for (const measure::KernelSpeed& s : speeds) {
    const bool arithmetic = s.ceiling == "bf16" || s.ceiling == "fp32";
    fmt::print("{:26} {:7} {:7.3f} ms {:4.0f} MiB  {:7} {:9.1f} {:9.1f} {} {:4.0f} %  {}\n", s.name, s.threads, s.seconds * 1e3, s.mib,
               s.ceiling, s.rate, s.ceiling_rate, arithmetic ? "GFLOPS" : "GB/s  ", 100 * s.share(), s.shape);
  }
}

void add_bench_kernels(CLI::App& bench) {
  auto* command = bench.add_subcommand("kernels", "What a training step does beside its products, each kernel under its own roof");
  const auto o = std::make_shared<KernelOptions>();
  constexpr std::int64_t kMost = 1 << 20;
  o->bench.model = "configs/models/small.json";
  command->add_option("--model", o->bench.model, "config.json of the model that gives the shapes")->capture_default_str();
  command->add_option("--only", o->bench.only, "kernels whose name holds this");
  command->add_option("--batch", o->bench.batch, "sequences")->check(CLI::Range(std::int64_t{1}, kMost))->capture_default_str();
  command->add_option("--seq", o->bench.seq_len, "tokens a sequence")->check(CLI::Range(std::int64_t{1}, kMost))->capture_default_str();
  command->add_option("--precision", o->bench.precision, "bf16 or fp32")->check(CLI::IsMember({"bf16", "fp32"}))->capture_default_str();
  command->add_option("--threads", o->bench.threads, "one measurement for each number (default: 1 and every core)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--seconds", o->bench.seconds, "for each measurement")->check(CLI::Range(0.01, 3600.0))->capture_default_str();
  command->add_flag("--json", o->json, "one JSON object");
  command->footer("Example:\n  finback bench kernels --only attention --batch 1 --seq 4096 --threads 1");
  command->callback([o] { bench_kernels(*o); });
}

struct CodeOptions {
  measure::CodeBenchOptions bench;
  bool json = false;
};

void bench_codes(const CodeOptions& o) {
  const kernels::Table& table = kernels::best();
  const std::vector<measure::CodeSpeed> speeds = measure::bench_codes(table, o.bench);
  if (o.json) {
    boost::json::array functions;
    for (const measure::CodeSpeed& s : speeds)
      functions.push_back(boost::json::object{{"name", s.name},
                                              {"from", s.from},
                                              {"to", s.to},
                                              {"rows", s.rows},
                                              {"cols", s.cols},
                                              {"repetitions", s.repetitions},
                                              {"elements_per_s", s.elements_per_s},
                                              {"gb_per_s", s.gb_per_s},
                                              {"copy_gb_per_s", s.copy_gb_per_s},
                                              {"share_of_copy", s.share_of_copy},
                                              {"level", s.level}});
    fmt::print("{}", core::pretty_json(
                         boost::json::object{{"threads", o.bench.threads}, {"isa", table.name}, {"functions", std::move(functions)}}));
    return;
  }
  fmt::print("{} threads, {}\n{:18} {:20} {:20} {:>12}  {:6} {:>10} {:>7} {:>7} {:>7}\n", o.bench.threads, table.name, "function", "from",
             "to", "elements", "", "elements/s", "GB/s", "copy", "share");
  for (const measure::CodeSpeed& s : speeds)
    fmt::print("{:18} {:20} {:20} {:>12}  {:6} {:8.2f} G {:7.1f} {:7.1f} {:5.0f} %\n", s.name, s.from, s.to,
               fmt::format("{} x {}", s.rows, s.cols), s.level, s.elements_per_s * 1e-9, s.gb_per_s, s.copy_gb_per_s,
               100 * s.share_of_copy);
}

void add_bench_codes(CLI::App& bench) {
  auto* command = bench.add_subcommand("quantize", "Numbers to codes with scales and back, beside a copy of as many bytes");
  const auto o = std::make_shared<CodeOptions>();
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  o->bench.threads = core::this_machine().cores;
  command->add_option("--rows", o->bench.rows, "one measurement for each number (default: 32, which L2 holds, and 4096)")
      ->check(CLI::Range(std::int64_t{1}, kMost));
  command->add_option("--cols", o->bench.cols, "columns")->check(CLI::Range(std::int64_t{1}, kMost))->capture_default_str();
  command->add_option("--only", o->bench.only, "functions whose name holds this");
  command->add_option("--threads", o->bench.threads, "threads (default: every core)")->check(CLI::Range(1, 1024));
  command->add_option("--seconds", o->bench.seconds, "for each measurement")->check(CLI::Range(0.01, 3600.0))->capture_default_str();
  command->add_flag("--json", o->json, "one JSON object");
  command->footer("Example:\n  finback bench quantize --only quantize_rows --rows 4096 --threads 1");
  command->callback([o] { bench_codes(*o); });
}

struct TrainOptions {
  measure::TrainBenchOptions bench;
  bool no_mtp = false, json = false;
};

// Of the time in which tokens were on their way to their experts and back; null where they are not spread.
boost::json::value hidden_share(const measure::TrainBench& r) {
  if (r.exchange.in_flight <= 0) return nullptr;
  return std::max(0.0, 1 - r.exchange.exposed / r.exchange.in_flight);
}

void bench_train(TrainOptions& o) {
  o.bench.mtp = !o.no_mtp;
  const std::optional<measure::TrainBench> measured = measure::bench_train(o.bench);
  if (!measured) return;
  const measure::TrainBench& r = *measured;
  if (o.json) {
    boost::json::array parts;
    for (const measure::StepPart& p : r.parts.parts)
      parts.push_back(boost::json::object{{"phase", p.phase},
                                          {"name", p.name},
                                          {"calls", p.calls},
                                          {"seconds", p.seconds},
                                          {"flops", p.work.flops},
                                          {"bytes", p.work.read + p.work.written}});
    fmt::print("{}", core::pretty_json(boost::json::object{{"model", o.bench.model},
                                                           {"precision", o.bench.precision},
                                                           {"batch", o.bench.batch},
                                                           {"seq", o.bench.seq_len},
                                                           {"steps", o.bench.steps},
                                                           {"mtp", r.mtp},
                                                           {"threads", o.bench.threads},
                                                           {"pp", o.bench.layout.pp},
                                                           {"dp", o.bench.layout.dp},
                                                           {"ep", o.bench.layout.ep},
                                                           {"schedule", o.bench.schedule},
                                                           {"exchange_in_flight_s", r.exchange.in_flight},
                                                           {"exchange_exposed_s", r.exchange.exposed},
                                                           {"exchange_hidden_share", hidden_share(r)},
                                                           {"copying_s", r.copying},
                                                           {"isa", r.isa},
                                                           {"tokens_per_s", r.tokens_per_s},
                                                           {"tokens_per_s_median", r.tokens_per_s_median},
                                                           {"model_flops_per_token", r.model_flops_per_token},
                                                           {"ceiling_gflops", r.ceiling_gflops},
                                                           {"share_of_ceiling", r.share_of_ceiling},
                                                           {"activation_storage", o.bench.activation_storage},
                                                           {"activation_bytes", r.activation_bytes},
                                                           {"activation_bytes_computed", r.activation_bytes_computed},
                                                           {"peak_rss_bytes", r.peak_rss_bytes},
                                                           {"accounted_bytes", r.accounted_bytes},
                                                           {"step_seconds", r.parts.seconds},
                                                           {"parts", std::move(parts)}}));
    return;
  }
  fmt::print("{}, {}, {} threads: {:.0f} tokens/s (median {:.0f}) at {:.1f} MFLOP a token, {:.1f} % of the ceiling's {:.1f} GFLOPS\n",
             r.isa, o.bench.precision, o.bench.threads, r.tokens_per_s, r.tokens_per_s_median, r.model_flops_per_token / 1e6,
             100 * r.share_of_ceiling, r.ceiling_gflops);
  fmt::print("{}activations kept of a micro-batch: {} bytes, {} by the list of train --check\n", r.memory, r.activation_bytes,
             r.activation_bytes_computed);
  if (r.exchange.in_flight > 0)
    fmt::print("exchange of tokens, first rank: {:.3f} s in flight, of which {:.3f} s exposed ({:.0f} % hidden); {:.3f} s of copying\n",
               r.exchange.in_flight, r.exchange.exposed, 100 * std::max(0.0, 1 - r.exchange.exposed / r.exchange.in_flight), r.copying);
  fmt::print("peak of the process {:.1f} MiB\n", static_cast<double>(r.peak_rss_bytes) / (1 << 20));
  if (!o.bench.trace.empty()) fmt::print("{}", measure::describe(r.parts));
}

void add_bench_train(CLI::App& bench) {
  auto* command = bench.add_subcommand("train", "Training steps of a model on random tokens");
  const auto o = std::make_shared<TrainOptions>();
  constexpr std::int64_t kMost = 1 << 16;
  command->add_option("--model", o->bench.model, "config.json of the model")->required();
  command->add_option("--batch", o->bench.batch, "sequences a step")->check(CLI::Range(std::int64_t{1}, kMost))->capture_default_str();
  command->add_option("--micro-batch", o->bench.micro_batch, "sequences at once (default: the batch)")
      ->check(CLI::Range(std::int64_t{1}, kMost));
  command->add_option("--seq", o->bench.seq_len, "tokens a sequence")->check(CLI::Range(std::int64_t{1}, kMost))->capture_default_str();
  command->add_option("--steps", o->bench.steps, "steps measured, after one to warm up")
      ->check(CLI::Range(std::int64_t{1}, kMost))
      ->capture_default_str();
  command->add_option("--precision", o->bench.precision, "of weights and activations")
      ->check(CLI::IsMember({"bf16", "fp8", "fp32"}))
      ->capture_default_str();
  command->add_option("--activation-storage", o->bench.activation_storage, "kept for the backward pass (docs/fp8.md)")
      ->check(CLI::IsMember({"full", "bf16", "fp8", "paper"}))
      ->capture_default_str();
  command->add_flag("--no-mtp", o->no_mtp, "without the MTP modules");
  command->add_option("--trace", o->bench.trace, "a file (Chrome trace) for the spans of the steps; prints where the fastest went");
  command->add_option("--threads", o->bench.threads, "threads of all ranks (default: every core)")->check(CLI::Range(1, 1024));
  const auto size = [&](const char* name, int& value, const char* meaning) {
    command->add_option(name, value, meaning)->check(CLI::Range(1, 1024))->capture_default_str();
  };
  size("--pp", o->bench.layout.pp, "ranks of the pipeline: pp × dp are threads of this process, or those of a launcher");
  size("--dp", o->bench.layout.dp, "data-parallel ranks of each");
  size("--ep", o->bench.layout.ep, "ranks over which a layer's experts are spread");
  command->add_option_function<double>(
      "--link-gb-per-s", [o](double x) { o->bench.comm.link_bytes_per_second = 1e9 * x; },
      "simulates a link at each rank, through which comes what others send");
  command->add_option_function<double>(
      "--link-delay-us", [o](double x) { o->bench.comm.link_delay = 1e-6 * x; }, "its delay (with --link-gb-per-s)");
  command->add_option("--schedule", o->bench.schedule, "of the pipeline")
      ->check(CLI::IsMember({"1f1b", "zb1p", "dualpipe", "dualpipev"}))
      ->capture_default_str();
  command->add_flag("--json", o->json, "one JSON object");
  command->footer("Example:\n  finback bench train --model configs/models/tiny.json --batch 8 --seq 512 --steps 5");
  command->callback([o] { bench_train(*o); });
}

}  // namespace

void add_bench(CLI::App& app) {
  auto* bench = app.add_subcommand("bench", "Measure this machine and finback on it");
  bench->require_subcommand(1);
  add_bench_ceiling(*bench);
  add_bench_gemm(*bench);
  add_bench_kernels(*bench);
  add_bench_codes(*bench);
  add_bench_exchange(*bench);
  add_bench_train(*bench);
  add_bench_decode(*bench);
  add_bench_prefill(*bench);
}

}  // namespace finback::cli
