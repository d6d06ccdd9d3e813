#include "measure/train_bench.h"

#include "comm/world.h"
#include "core/clock.h"
#include "core/rng.h"
#include "formats/trace.h"
#include "kernels/traced.h"
#include "measure/ceiling.h"
#include "model/flops.h"
#include "model/kept.h"
#include "train/layout.h"
#include "train/recipe.h"
#include "train/trainer.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <vector>

namespace finback::measure {
namespace {

train::RunConfig run_of(const TrainBenchOptions& o) {
  train::RunConfig run;
  run.data.seq_len = o.seq_len;
  run.train.global_batch = o.batch;
  run.train.micro_batch = o.micro_batch > 0 ? o.micro_batch : std::max<std::int64_t>(1, o.batch / o.layout.dp);
  run.parallel.pp = o.layout.pp, run.parallel.dp = o.layout.dp, run.parallel.ep = o.layout.ep, run.parallel.schedule = o.schedule;
  run.train.precision = o.precision;
  run.train.activation_storage = o.activation_storage;
  if (run.train.global_batch % train::least_batch(run) != 0)
    throw core::Error(core::Exit::usage,
                      fmt::format("micro-batches of {} for {} data-parallel ranks{} do not divide --batch", run.train.micro_batch,
                                  o.layout.dp, o.schedule == "dualpipe" ? " from both ends" : ""),
                      std::to_string(o.batch), "choose another --batch or --micro-batch");
  model::check_storage(train::precision_of(run), model::activation_storage_of(o.activation_storage));
  return run;
}

void random_tokens(std::int64_t vocabulary, std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
  const core::Rng rng(1, core::Stream::test, static_cast<std::uint32_t>(first));
  for (std::size_t i = 0; i <= inputs.size(); ++i) {
    const auto id = static_cast<std::int32_t>(rng.below(i, static_cast<std::uint64_t>(vocabulary)));
    if (i < inputs.size()) inputs[i] = id;
    if (i > 0) targets[i - 1] = id;
  }
}

// What one rank measures.
struct Timed {
  std::vector<double> seconds;
  train::MemoryByKind memory;
  std::int64_t activation_bytes = 0;
  parallel::ExchangeTimes exchange;
  double copying = 0;
};

Timed time_steps(const TrainBenchOptions& o, const train::RunConfig& run, const model::ModelConfig& config, core::Spans* spans,
                 comm::Communicator* ranks) {
  const model::ParameterList list = model::list_parameters(config);
  const kernels::TracedTable traced(kernels::best());
  core::Team team(std::max(1, o.threads / (ranks ? ranks->size() : 1)));
  if (ranks) team.set_poll(comm::Communicator::progress, ranks);
  const auto member = ranks ? train::join(run, config, list, *ranks) : nullptr;
  train::Trainer trainer(
      run, config, list, team, spans ? traced : kernels::best(),
      [&](std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
        random_tokens(config.vocab_size, first, inputs, targets);
      },
      spans, member.get());
  trainer.state().initialise(config, 1, trainer.context());
  trainer.step();
  Timed timed;
  const parallel::ExchangeTimes before = trainer.exchange_times();
  const double copied = ranks ? ranks->times().exchange : 0;
  for (std::int64_t s = 0; s < o.steps; ++s) {
    const double begin = core::seconds_now();
    trainer.step();
    timed.seconds.push_back(core::seconds_now() - begin);
  }
  const parallel::ExchangeTimes after = trainer.exchange_times();
  timed.exchange = {after.in_flight - before.in_flight, after.exposed - before.exposed};
  timed.copying = ranks ? ranks->times().exchange - copied : 0;
  timed.memory = trainer.memory();
  timed.activation_bytes = trainer.activation_bytes();
  return timed;
}

}  // namespace

std::optional<TrainBench> bench_train(const TrainBenchOptions& o) {
  model::ModelConfig config = model::read_config(o.model);
  if (!o.mtp) config.num_nextn_predict_layers = 0;
  const train::RunConfig run = run_of(o);
  const model::Precision precision = train::precision_of(run);
  const model::ActivationStorage storage = model::activation_storage_of(o.activation_storage);
  const Rate rate = precision.storage == core::DType::bf16 ? Rate::bf16 : Rate::fp32;
  TrainBench result;
  result.mtp = config.num_nextn_predict_layers > 0;
  result.isa = kernels::best().name;
  const auto ceiling = [&] {
    core::Team team(o.threads);
    return ceiling_of(team, rate, 0.5);
  };
  result.ceiling_gflops = ceiling();

  std::optional<core::Spans> spans;
  if (!o.trace.empty()) spans.emplace(core::kSpansOfARun);
  const std::int64_t program = train::resident_bytes();
  const int ranks = o.layout.pp * o.layout.dp;
  std::vector<Timed> timed;  // of the ranks in this process
  bool first_here = true;
  if (ranks == 1 && !comm::under_launcher()) {
    timed.push_back(time_steps(o, run, config, spans ? &*spans : nullptr, nullptr));
  } else {
    std::mutex mutex;
    first_here = false;
    comm::run_ranks(comm::under_launcher() ? 1 : ranks, o.comm, [&](comm::Communicator& world) {
      const bool first = world.rank() == 0;
      Timed mine = time_steps(o, run, config, first && spans ? &*spans : nullptr, &world);
      const std::lock_guard lock(mutex);
      first_here |= first;
      timed.insert(first ? timed.begin() : timed.end(), std::move(mine));
    });
  }
  if (!first_here) return std::nullopt;
  std::vector<double>& seconds = timed[0].seconds;
  std::sort(seconds.begin(), seconds.end());
  const auto tokens = static_cast<double>(o.batch * o.seq_len);
  result.tokens_per_s = tokens / seconds.front();
  result.tokens_per_s_median = tokens / seconds[seconds.size() / 2];
  result.model_flops_per_token = model::model_flops_per_token(config, o.seq_len, result.mtp);
  result.ceiling_gflops = std::max(result.ceiling_gflops, ceiling());
  result.share_of_ceiling = result.tokens_per_s * result.model_flops_per_token / 1e9 / result.ceiling_gflops;

  result.exchange = timed[0].exchange;
  result.copying = timed[0].copying;
  result.activation_bytes = timed[0].activation_bytes;
  result.activation_bytes_computed = model::kept_bytes_per_token(config, precision, storage) * run.train.micro_batch * o.seq_len;
  result.peak_rss_bytes = train::peak_resident_bytes();
  result.accounted_bytes = program;
  for (const Timed& t : timed) result.accounted_bytes += t.memory.total();
  timed[0].memory.program = program;
  result.memory = train::describe(timed[0].memory);
  if (spans) {
    result.parts = fastest_step(*spans);
    formats::write_trace(o.trace, *spans);
  }
  return result;
}

}  // namespace finback::measure
