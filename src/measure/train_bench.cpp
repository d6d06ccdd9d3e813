#include "measure/train_bench.h"

#include "core/clock.h"
#include "core/rng.h"
#include "formats/trace.h"
#include "kernels/traced.h"
#include "measure/ceiling.h"
#include "model/flops.h"
#include "model/kept.h"
#include "train/trainer.h"

#include <algorithm>
#include <optional>
#include <vector>

namespace finback::measure {
namespace {

train::RunConfig run_of(const TrainBenchOptions& o) {
  train::RunConfig run;
  run.data.seq_len = o.seq_len;
  run.train.global_batch = o.batch;
  run.train.micro_batch = o.micro_batch > 0 ? o.micro_batch : o.batch;
  run.train.precision = o.precision;
  run.train.activation_storage = o.activation_storage;
  if (run.train.global_batch % run.train.micro_batch != 0)
    throw core::Error(core::Exit::usage, "--micro-batch does not divide --batch", std::to_string(run.train.micro_batch),
                      "choose a divisor");
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

}  // namespace

TrainBench bench_train(const TrainBenchOptions& o) {
  model::ModelConfig config = model::read_config(o.model);
  if (!o.mtp) config.num_nextn_predict_layers = 0;
  const train::RunConfig run = run_of(o);
  const model::ParameterList list = model::list_parameters(config);
  const model::Precision precision = train::precision_of(run);
  const model::ActivationStorage storage = model::activation_storage_of(o.activation_storage);
  const Rate rate = precision.storage == core::DType::bf16 ? Rate::bf16 : Rate::fp32;
  core::Team team(o.threads);
  TrainBench result;
  result.mtp = config.num_nextn_predict_layers > 0;
  result.isa = kernels::best().name;
  result.ceiling_gflops = ceiling_of(team, rate, 0.5);

  std::optional<core::Spans> spans;
  if (!o.trace.empty()) spans.emplace(core::kSpansOfARun);
  const kernels::TracedTable traced(kernels::best());
  const std::int64_t program = train::resident_bytes();
  train::Trainer trainer(
      run, config, list, team, spans ? traced : kernels::best(),
      [&](std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
        random_tokens(config.vocab_size, first, inputs, targets);
      },
      spans ? &*spans : nullptr);
  trainer.state().initialise(config, 1, trainer.context());
  trainer.step();
  std::vector<double> seconds;
  for (std::int64_t s = 0; s < o.steps; ++s) {
    const double begin = core::seconds_now();
    trainer.step();
    seconds.push_back(core::seconds_now() - begin);
  }
  std::sort(seconds.begin(), seconds.end());
  const auto tokens = static_cast<double>(o.batch * o.seq_len);
  result.tokens_per_s = tokens / seconds.front();
  result.tokens_per_s_median = tokens / seconds[seconds.size() / 2];
  result.model_flops_per_token = model::model_flops_per_token(config, o.seq_len, result.mtp);
  result.ceiling_gflops = std::max(result.ceiling_gflops, ceiling_of(team, rate, 0.5));
  result.share_of_ceiling = result.tokens_per_s * result.model_flops_per_token / 1e9 / result.ceiling_gflops;

  result.activation_bytes = trainer.activation_bytes();
  result.activation_bytes_computed = model::kept_bytes_per_token(config, precision, storage) * run.train.micro_batch * o.seq_len;
  train::MemoryByKind memory = trainer.memory();
  memory.program = program;
  result.peak_rss_bytes = train::peak_resident_bytes();
  result.accounted_bytes = memory.total();
  result.memory = train::describe(memory);
  if (spans) {
    result.parts = fastest_step(*spans);
    formats::write_trace(o.trace, *spans);
  }
  return result;
}

}  // namespace finback::measure
