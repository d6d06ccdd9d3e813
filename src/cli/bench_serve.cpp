// finback bench decode and prefill: the engine beside what the memory and the arithmetic of this machine allow.
#include "cli/command.h"
#include "core/json.h"
#include "kernels/kernels.h"
#include "measure/serve_bench.h"

#include <memory>

namespace finback::cli {
namespace {

struct Options {
  measure::ServeBenchOptions bench;
  bool json = false;
};

void print(const Options& o, const char* what, const std::vector<measure::ServeSpeed>& speeds) {
  if (o.json) {
    boost::json::array all;
    for (const measure::ServeSpeed& s : speeds)
      all.push_back(boost::json::object{{"batch", s.batch},
                                        {"context", s.context},
                                        {"tokens_per_s", s.tokens_per_s},
                                        {"ms_per_step", s.median_seconds * 1e3},
                                        {"ms_per_step_best", s.seconds * 1e3},
                                        {"steps", s.steps},
                                        {"weight_bytes_per_step", s.weight_bytes},
                                        {"cache_bytes_per_step", s.cache_bytes},
                                        {"experts_per_step", s.experts},
                                        {"gflop_per_step", s.gflop},
                                        {"gb_per_s", s.gb_per_s},
                                        {"ceiling_gb_per_s", s.ceiling_gb_per_s},
                                        {"ceiling_gflops", s.ceiling_gflops},
                                        {"share_of_bandwidth", s.share_of_bandwidth()},
                                        {"share_of_ceiling", s.share_of_ceiling()}});
    fmt::print("{}", core::pretty_json(boost::json::object{{"what", what},
                                                           {"model", o.bench.model},
                                                           {"threads", o.bench.threads},
                                                           {"isa", kernels::best().name},
                                                           {"speeds", std::move(all)}}));
    return;
  }
  fmt::print("{}, {} threads, {}\n{:>6} {:>8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}\n", what, o.bench.threads, kernels::best().name,
             "batch", "context", "tokens/s", "ms/step", "best", "MB read", "GB/s", "of", "bound");
  for (const measure::ServeSpeed& s : speeds)
    fmt::print("{:6} {:8} {:10.1f} {:9.3f} {:9.3f} {:9.1f} {:9.1f} {:8.1f} {:6.0f} %\n", s.batch, s.context, s.tokens_per_s,
               s.median_seconds * 1e3, s.seconds * 1e3, (s.weight_bytes + s.cache_bytes) * 1e-6, s.gb_per_s, s.ceiling_gb_per_s,
               100 * s.share_of_ceiling());
}

CLI::App* add(CLI::App& bench, const char* name, const char* meaning, const std::shared_ptr<Options>& o) {
  CLI::App* c = bench.add_subcommand(name, meaning);
  c->add_option("--model", o->bench.model, "Model folder")->required();
  c->add_option("--threads", o->bench.threads, "threads (default: every core)")->check(CLI::Range(1, 1024));
  c->add_option("--seconds", o->bench.seconds, "for each measurement")->check(CLI::Range(0.01, 3600.0))->capture_default_str();
  c->add_flag("--json", o->json, "one JSON object");
  return c;
}

}  // namespace

void add_bench_decode(CLI::App& bench) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = add(bench, "decode", "Tokens a second of so many answers at a time", o);
  c->add_option("--batch", o->bench.batch, "answers at a time, one measurement for each")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  c->add_option("--context", o->bench.context, "tokens before them, one measurement for each")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  c->footer("Example:\n  finback bench decode --model runs/small --batch 1 8 64 --context 512");
  c->callback([o] { print(*o, "decode", measure::bench_decode(o->bench)); });
}

void add_bench_prefill(CLI::App& bench) {
  const auto o = std::make_shared<Options>();
  CLI::App* c = add(bench, "prefill", "Tokens a second of a prompt, in one step", o);
  c->add_option("--context", o->bench.context, "tokens of the prompt, one measurement for each")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  c->footer("Example:\n  finback bench prefill --model runs/small --context 512 2048");
  c->callback([o] { print(*o, "prefill", measure::bench_prefill(o->bench)); });
}

}  // namespace finback::cli
