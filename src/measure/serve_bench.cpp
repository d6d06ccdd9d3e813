#include "measure/serve_bench.h"

#include "core/clock.h"
#include "core/error.h"
#include "core/rng.h"
#include "infer/engine.h"
#include "measure/ceiling.h"
#include "measure/speed.h"
#include "model/flops.h"

#include <algorithm>

namespace finback::measure {
namespace {

double count(std::int64_t n) { return static_cast<double>(n); }

// Bytes of the weights that every token meets, and of one expert. W_kvb is read as its two absorbed halves, which are as large.
struct WeightBytes {
  double every_token = 0, expert = 0;
};
WeightBytes weight_bytes(const infer::LoadedModel& m) {
  const double size = count(core::size_of(m.precision().storage));
  WeightBytes bytes;
  for (const model::Slab& s : m.list().slabs) {
    if (s.role == model::Role::embedding || s.layer >= m.config().num_hidden_layers) continue;
    if (s.role != model::Role::expert) bytes.every_token += count(s.size()) * size;
    else if (s.layer == m.config().first_k_dense_replace) bytes.expert += count(s.rows * s.cols) * size;  // of the first MoE layer
  }
  return bytes;
}

// 10^9 operations of `tokens` tokens with `keys` positions in the sight of each (on average), of which `wanted` pass the head.
double step_gflop(const model::ModelConfig& m, std::int64_t tokens, double keys, std::int64_t wanted) {
  const double head = count(m.hidden_size * m.vocab_size), width = count(m.num_attention_heads * (2 * m.kv_lora_rank + m.qk_rope_head_dim));
  const double token = count(model::active_matmul_parameters(m, false)) - head + count(m.num_hidden_layers) * width * keys;
  return 2e-9 * (count(tokens) * token + count(wanted) * head);
}
double cache_row_bytes(const infer::LoadedModel& m) {
  return count(model::page_bytes(m.config(), m.precision().storage)) / count(kernels::kPage);
}

infer::Request request(const infer::LoadedModel& m, std::int64_t prompt, std::int64_t answer, std::uint32_t number) {
  infer::Request r{.prompt = {}, .max_tokens = answer};
  const core::Rng rng(1, core::Stream::synthetic, number);
  for (std::int64_t i = 0; i < prompt; ++i)
    r.prompt.push_back(
        static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(m.config().vocab_size))));
  r.sample.seed = number;
  return r;
}

// A model, its machine and the roofs over it: measured before and after every case, the higher ones.
class Bench {
 public:
  explicit Bench(const ServeBenchOptions& o) : options_(o), team_(o.threads), model_(o.model, team_), bytes_(weight_bytes(model_)) {}

  ServeSpeed decode(std::int64_t batch, std::int64_t context) {
    const std::int64_t answer = model_.config().max_position_embeddings - context;
    if (answer < 16) refuse(context);
    const std::int64_t most = std::min<std::int64_t>(answer, 4096);
    infer::Engine engine(model_, team_, engine_options(batch, context + most));
    for (std::int64_t i = 0; i < batch; ++i) engine.submit(request(model_, context, most, static_cast<std::uint32_t>(i)));
    while (std::ssize(engine.step()) < batch) {
    }
    ServeSpeed s{.batch = batch, .context = context};
    const std::int64_t begun = engine.counters().generated_tokens, experts = engine.experts_read();
    measure(s, [&] { return std::ssize(engine.step()) == batch; });
    const double steps = count(s.steps), keys = count(context) + steps / 2;
    FB_CHECK(engine.counters().generated_tokens - begun == s.steps * batch, "{} steps", s.steps);
    s.experts = count(engine.experts_read() - experts) / steps;
    s.cache_bytes = count(batch) * keys * cache_row_bytes(model_);
    s.gflop = step_gflop(model_.config(), batch, keys, batch);
    s.tokens_per_s = count(batch) / s.median_seconds;
    return finish(s);
  }

  ServeSpeed prefill(std::int64_t context) {
    if (context >= model_.config().max_position_embeddings) refuse(context);
    infer::EngineOptions o = engine_options(1, context + 1);
    o.max_step_tokens = context;
    o.reuse_prefixes = false;
    infer::Engine engine(model_, team_, o);
    ServeSpeed s{.batch = 1, .context = context};
    const std::int64_t experts = engine.experts_read();
    std::uint32_t number = 0;
    measure(s, [&] {
      engine.submit(request(model_, context, 1, number++));
      return !engine.step().empty();
    });
    s.experts = count(engine.experts_read() - experts) / count(s.steps);
    s.cache_bytes = count(context) * cache_row_bytes(model_);
    s.gflop = step_gflop(model_.config(), context, count(context) / 2, 1);
    s.tokens_per_s = count(context) / s.median_seconds;
    return finish(s);
  }

 private:
  [[noreturn]] void refuse(std::int64_t context) const {
    throw core::Error(core::Exit::usage, fmt::format("a context of {}", context), "--context",
                      fmt::format("give less than max_position_embeddings = {}", model_.config().max_position_embeddings));
  }
  infer::EngineOptions engine_options(std::int64_t batch, std::int64_t positions) const {
    const std::int64_t pages = batch * ((positions + kernels::kPage - 1) / kernels::kPage);
    return {.max_positions = positions,
            .max_batch = batch,
            .max_step_tokens = std::max<std::int64_t>(batch, 512),
            .cache_bytes = pages * model::page_bytes(model_.config(), model_.precision().storage)};
  }

  void ceilings(ServeSpeed& s) {
    const bool bf16 = model_.precision().storage == core::DType::bf16;
    const double seconds = std::min(0.4, options_.seconds / 4);
    s.ceiling_gflops = std::max(s.ceiling_gflops, ceiling_of(team_, bf16 ? Rate::bf16 : Rate::fp32, seconds));
    s.ceiling_gb_per_s = std::max(s.ceiling_gb_per_s, reads_->rate(seconds));
  }

  // Steps until time is up or they end.
  template <class Step>
  void measure(ServeSpeed& s, Step step) {
    if (!reads_) {
      constexpr std::int64_t kWhole = 1 << 20;
      const auto all = static_cast<std::int64_t>(bytes_.every_token + bytes_.expert * count(experts())) / kWhole * kWhole;
      reads_ = std::make_unique<TrafficCeiling>(team_, Traffic{.read = std::max(all, kWhole)});
    }
    ceilings(s);
    std::vector<double> seconds;
    const double end = core::seconds_now() + options_.seconds;
    for (double now = core::seconds_now(); now < end;) {
      const bool whole = step();
      const double then = core::seconds_now();
      if (!whole) break;
      seconds.push_back(then - now);
      now = then;
    }
    FB_CHECK(!seconds.empty());
    s.steps = std::ssize(seconds);
    s.seconds = *std::ranges::min_element(seconds);
    s.median_seconds = median(seconds);
    ceilings(s);
  }
  std::int64_t experts() const {
    const model::ModelConfig& m = model_.config();
    return (m.num_hidden_layers - std::min(m.first_k_dense_replace, m.num_hidden_layers)) * m.n_routed_experts;
  }
  ServeSpeed finish(ServeSpeed s) const {
    s.weight_bytes = bytes_.every_token + bytes_.expert * s.experts;
    s.gb_per_s = (s.weight_bytes + s.cache_bytes) / s.median_seconds * 1e-9;
    return s;
  }

  const ServeBenchOptions& options_;
  core::Team team_;
  infer::LoadedModel model_;
  WeightBytes bytes_;
  std::unique_ptr<TrafficCeiling> reads_;  // of all weights
};

}  // namespace

double ServeSpeed::bound_seconds() const {
  return std::max((weight_bytes + cache_bytes) / ceiling_gb_per_s * 1e-9, gflop / ceiling_gflops);
}

std::vector<ServeSpeed> bench_decode(const ServeBenchOptions& o) {
  Bench bench(o);
  std::vector<ServeSpeed> speeds;
  speeds.reserve(o.context.size() * o.batch.size());
  for (const std::int64_t context : o.context)
    for (const std::int64_t batch : o.batch) speeds.push_back(bench.decode(batch, context));
  return speeds;
}

std::vector<ServeSpeed> bench_prefill(const ServeBenchOptions& o) {
  Bench bench(o);
  std::vector<ServeSpeed> speeds;
  speeds.reserve(o.context.size());
  for (const std::int64_t context : o.context) speeds.push_back(bench.prefill(context));
  return speeds;
}

}  // namespace finback::measure
