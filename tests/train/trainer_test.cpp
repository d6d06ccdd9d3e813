#include "train/trainer.h"

#include "core/rng.h"
#include "formats/fp8.h"
#include "formats/hf_folder.h"
#include "kernels/traced.h"
#include "tests/formats/temp_folder.h"
#include "tests/train/allocations.h"
#include "tests/train/tiny_model.h"
#include "train/checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace finback::train {
namespace {

constexpr std::int64_t kSeqLen = 12;

RunConfig tiny_run() {
  RunConfig run;
  run.data.seq_len = kSeqLen;
  run.train.steps = 40;
  run.train.global_batch = 4, run.train.micro_batch = 2;
  run.optimizer.lr = 1e-2, run.optimizer.min_lr = 1e-3, run.optimizer.warmup_steps = 4;
  return run;
}

// Text with structure: the next token is a function of the last one, now and then disturbed.
void fill_tokens(std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
  const core::Rng rng(5, core::Stream::test);
  const auto token = [&](std::uint64_t i) { return static_cast<std::int32_t>(rng.uniform(i) < 0.1 ? rng.below(i, 64) : (i * 7) % 13); };
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::uint64_t at = static_cast<std::uint64_t>(first * kSeqLen) + i;
    inputs[i] = token(at);
    targets[i] = token(at + 1);
  }
}

struct Session {
  explicit Session(const RunConfig& config, int threads = 1, const kernels::Table& kernels = kernels::best(),
                   TokenSource tokens = fill_tokens, core::Spans* spans = nullptr)
      : run(config), team(threads), trainer(run, model, list, team, kernels, std::move(tokens), spans) {
    trainer.state().initialise(model, static_cast<std::uint64_t>(run.train.seed), trainer.context());
  }
  std::vector<double> steps(int n) {
    std::vector<double> losses;
    for (int i = 0; i < n; ++i) losses.push_back(trainer.step().loss);
    return losses;
  }
  RunConfig run;
  model::ModelConfig model = tiny_model();
  model::ParameterList list = model::list_parameters(model);
  core::Team team;
  Trainer trainer;
};

void expect_same_state(TrainState& a, TrainState& b) {
  const auto same = [&](const std::vector<core::Mat>& x, const std::vector<core::Mat>& y) {
    ASSERT_EQ(x.size(), y.size());
    for (std::size_t s = 0; s < x.size(); ++s)
      if (x[s]) {
        ASSERT_EQ(0, std::memcmp(x[s].data, y[s].data, static_cast<std::size_t>(x[s].bytes()))) << a.list.slabs[s].name;
      }
  };
  for (const auto& [x, y] : {std::pair{&a.master, &b.master}, {&a.m, &b.m}, {&a.v, &b.v}, {&a.weights, &b.weights}})
    same(x->slabs, y->slabs);
  same(a.weights.scales, b.weights.scales);
  EXPECT_EQ(a.counters.sequences, b.counters.sequences);
  EXPECT_EQ(a.counters.guard.loss.mean, b.counters.guard.loss.mean);
}

RunConfig fp8_run(const char* storage = "paper") {
  RunConfig run = tiny_run();
  run.train.precision = "fp8";
  run.train.activation_storage = storage;
  return run;
}

TEST(Trainer, LearnsAndBalances) {
  for (const auto& [precision, storage] :
       {std::pair{"bf16", "bf16"}, {"fp32", "bf16"}, {"fp8", "full"}, {"fp8", "fp8"}, {"fp8", "paper"}}) {
    RunConfig config = tiny_run();
    config.train.precision = precision;
    config.train.activation_storage = storage;
    Session r(config);
    const auto losses = r.steps(40);
    EXPECT_NEAR(losses.front(), std::log(64.0), 0.2) << precision;
    EXPECT_LT(losses.back(), 2.2) << precision;
    EXPECT_EQ(r.trainer.state().counters.sequences, 160);
    bool moved = false;
    for (std::size_t s = 0; s < r.list.slabs.size(); ++s)
      if (r.list.slabs[s].role == model::Role::gate_bias) moved |= r.trainer.state().master.slabs[s].row<float>(0)[0] != 0;
    EXPECT_TRUE(moved);
  }
}

TEST(Trainer, TheNumberOfThreadsChangesNoBit) {
  for (const RunConfig& run : {tiny_run(), fp8_run()}) {
    Session one(run, 1), three(run, 3);
    EXPECT_EQ(one.steps(5), three.steps(5));
    expect_same_state(one.trainer.state(), three.trainer.state());
  }
}

// A run that is stopped, saved, read back into a new process's memory and continued has the bits of one that never stopped.
class Resumed : public ::testing::TestWithParam<RunConfig> {};
INSTANTIATE_TEST_SUITE_P(Precisions, Resumed, ::testing::Values(tiny_run(), fp8_run()),
                         [](const auto& tested) { return tested.param.train.precision; });

TEST_P(Resumed, HasTheBitsOfAnUninterruptedRun) {
  Session whole(GetParam()), first(GetParam()), second(GetParam());
  const auto losses = whole.steps(12);
  first.steps(7);
  const finback::testing::TempFolder folder;
  Snapshot snapshot(first.list, model::precision_of("bf16"), core::DType::bf16);
  snapshot.copy(first.trainer.state(), first.trainer.context());
  const CheckpointContent content{first.model, first.list, core::DType::bf16, "", "", 1, {}};
  const std::string path = write_checkpoint(folder.path(), content, snapshot);
  read_checkpoint(path, content, {}, second.trainer.state());
  second.trainer.state().refresh_weights(second.trainer.context());
  const auto continued = second.steps(5);
  EXPECT_EQ(std::vector<double>(losses.begin() + 7, losses.end()), continued);
  expect_same_state(whole.trainer.state(), second.trainer.state());
}

// Two micro-batches of two are one of four, but for the order of sums.
TEST(Trainer, MicroBatchesAddUpToTheBatch) {
  RunConfig config = tiny_run();
  config.train.precision = "fp32";
  Session two(config);
  config.train.micro_batch = 4;
  Session four(config);
  const StepReport a = two.trainer.step(), b = four.trainer.step();
  EXPECT_NEAR(a.loss, b.loss, 1e-6 * b.loss);
  EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-5 * b.grad_norm);
  EXPECT_NEAR(a.mtp_loss, b.mtp_loss, 1e-6 * b.mtp_loss);
}

TEST(Trainer, ClippingBoundsTheStepNotTheReport) {
  RunConfig config = tiny_run();
  config.optimizer.grad_clip = 1e-3;
  Session r(config);
  EXPECT_GT(r.trainer.step().grad_norm, 1e-3);
}

class BadWeight : public ::testing::TestWithParam<RunConfig> {};
INSTANTIATE_TEST_SUITE_P(Precisions, BadWeight, ::testing::Values(tiny_run(), fp8_run()),
                         [](const auto& tested) { return tested.param.train.precision; });

TEST_P(BadWeight, IsSkippedAndCountedWhileItStays) {
  Session r(GetParam());
  r.steps(2);
  TrainState& state = r.trainer.state();
  float* weight = state.master.slabs[2].row<float>(0);
  const float before = weight[3];
  weight[3] = -std::numeric_limits<float>::quiet_NaN();
  state.refresh_weights(r.trainer.context());
  const std::vector<float> other(state.master.slabs[1].row<float>(0), state.master.slabs[1].row<float>(0) + 8);
  for (int i = 1; i <= 2; ++i) {
    const StepReport report = r.trainer.step();
    EXPECT_EQ(report.outcome, StepOutcome::skipped_nonfinite);
    for (const double x : {report.loss, report.mtp_loss, report.grad_norm})
      EXPECT_FALSE(std::isnan(x) && std::signbit(x));  // it would be told as "-nan"
    EXPECT_TRUE(report.recomputed);
    EXPECT_TRUE(report.suspects.empty());
    EXPECT_EQ(report.nonfinite_tiles > 0, r.run.train.precision == "fp8");
    EXPECT_EQ(state.counters.bad_in_a_row, i);
  }
  EXPECT_EQ(state.counters.step, 4);
  EXPECT_EQ(state.counters.optimizer_steps, 2);
  EXPECT_EQ(0, std::memcmp(other.data(), state.master.slabs[1].data, 32));
  weight[3] = before;
  state.refresh_weights(r.trainer.context());
  EXPECT_EQ(r.trainer.step().outcome, StepOutcome::updated);
  EXPECT_EQ(state.counters.bad_in_a_row, 0);
}

// A kernel that computes one wrong value once, as a failing core would.
kernels::Table faulty;
int calls_until_fault = 0;
void (*true_combine)(const kernels::Context&, core::ConstMat, core::ConstMat, core::ConstMat, std::int64_t, core::ConstMat, core::Mat);
void combine_once_wrong(const kernels::Context& ctx, core::ConstMat y, core::ConstMat ids, core::ConstMat slots, std::int64_t per_group,
                        core::ConstMat addend, core::Mat out) {
  true_combine(ctx, y, ids, slots, per_group, addend, out);
  if (--calls_until_fault == 0) out.row<std::uint16_t>(0)[0] = 0x7fc0;  // NaN
}

TEST(Trainer, AnErrorOfTheMachineIsReportedAndTheStepRepaired) {
  faulty = kernels::best();
  true_combine = faulty.combine_rows;
  faulty.combine_rows = combine_once_wrong;
  calls_until_fault = 1000;
  Session sound(tiny_run()), hit(tiny_run(), 1, faulty);
  sound.steps(2);
  hit.trainer.step();
  calls_until_fault = 1;
  const StepReport report = hit.trainer.step();
  EXPECT_EQ(report.outcome, StepOutcome::updated);
  EXPECT_TRUE(report.recomputed);
  EXPECT_EQ(report.suspects, std::vector{0});
  expect_same_state(sound.trainer.state(), hit.trainer.state());
}

// A flip that leaves the numbers finite: found in the steps that are computed twice, which then go on with the sound result.
TEST(Trainer, AStepComputedTwiceShowsAFlippedBit) {
  faulty = kernels::best();
  true_combine = faulty.combine_rows;
  faulty.combine_rows = [](const kernels::Context& ctx, core::ConstMat y, core::ConstMat ids, core::ConstMat slots, std::int64_t per_group,
                           core::ConstMat addend, core::Mat out) {
    true_combine(ctx, y, ids, slots, per_group, addend, out);
    if (--calls_until_fault == 0) out.row<std::uint16_t>(0)[0] ^= 0x40;
  };
  calls_until_fault = 1 << 20;
  RunConfig config = tiny_run();
  config.guard.recheck_every = 2;
  Session sound(tiny_run()), hit(config, 1, faulty);
  sound.steps(2);
  EXPECT_TRUE(hit.trainer.step().suspects.empty());
  calls_until_fault = 3;
  const StepReport report = hit.trainer.step();
  EXPECT_TRUE(report.recomputed);
  EXPECT_EQ(report.suspects, std::vector{0});
  EXPECT_EQ(report.outcome, StepOutcome::updated);
  expect_same_state(sound.trainer.state(), hit.trainer.state());
}

TEST(Trainer, ASpikeIsSkippedOrRolledBackAsConfigured) {
  bool noise = false;
  const TokenSource tokens = [&](std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
    fill_tokens(first, inputs, targets);
    if (noise)
      for (std::size_t i = 0; i < targets.size(); ++i) targets[i] = static_cast<std::int32_t>(63 - i % 20);
  };
  RunConfig config = tiny_run();
  config.train.steps = 100;
  config.guard.spike_window = 20;
  for (const auto& [action, outcome] :
       {std::pair{"log", StepOutcome::updated}, {"skip", StepOutcome::skipped_spike}, {"rollback", StepOutcome::rollback_wanted}}) {
    config.guard.spike_action = action;
    noise = false;
    Session r(config, 1, kernels::best(), tokens);
    r.steps(60);
    noise = true;
    const std::int64_t updates = r.trainer.state().counters.optimizer_steps;
    const StepReport report = r.trainer.step();
    EXPECT_EQ(report.outcome, outcome) << action;
    EXPECT_GT(std::max(report.loss_zscore, report.norm_zscore), 6) << action;
    EXPECT_EQ(r.trainer.state().counters.optimizer_steps, updates + (outcome == StepOutcome::updated)) << action;
  }
}

TEST(Trainer, HardInputsStayFinite) {
  // Nothing scored; one token a sequence; all tokens alike, so that they crowd into the same experts.
  for (const std::int64_t seq_len : {1, 5}) {
    for (const bool scored : {false, true}) {
      RunConfig config = tiny_run();
      config.data.seq_len = seq_len;
      Session r(config, 1, kernels::best(), [&](std::int64_t, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
        std::fill(inputs.begin(), inputs.end(), 3);
        std::fill(targets.begin(), targets.end(), scored ? 4 : -1);
      });
      for (int i = 0; i < 3; ++i) {
        const StepReport report = r.trainer.step();
        EXPECT_EQ(report.outcome, StepOutcome::updated);
        EXPECT_TRUE(std::isfinite(report.loss) && std::isfinite(report.grad_norm) && std::isfinite(report.imbalance));
        if (!scored) {
          EXPECT_EQ(report.loss, 0);
        }
      }
    }
  }
}

TEST(Trainer, AHugeLearningRateNeverCrashes) {
  RunConfig config = tiny_run();
  config.optimizer.lr = 1e3, config.optimizer.min_lr = 1e3, config.optimizer.warmup_steps = 0;
  Session r(config);
  r.steps(10);
}

TEST(Trainer, ATeamThatCannotStartIsAnError) {
  int failures = 0;
  for (long n = 1;; ++n) {
    fail_allocation(n);
    try {
      core::Team team(4);
      break;
    } catch (const std::bad_alloc&) {
      ++failures;
    }
  }
  fail_allocation(0);
  EXPECT_GE(failures, 4);  // the state and three threads
}

TEST(Trainer, NothingIsAllocatedInAStep) {
  for (const RunConfig& run : {tiny_run(), fp8_run("full"), fp8_run("paper")}) {
    Session r(run, 2);
    r.steps(2);
    EXPECT_EQ(allocations_during([&] { r.trainer.step(); }), 0) << run.train.activation_storage;
  }
}

// A NaN that no loss and no norm shows: it stands in a gradient's tile, and the kernel that reads it is made to swallow it.
std::int64_t (*true_quantise)(const kernels::Context&, core::ConstMat, const kernels::Quantization&, const kernels::ScaledBuffer&);
std::int64_t one_bad_tile(const kernels::Context& ctx, core::ConstMat x, const kernels::Quantization& how, const kernels::ScaledBuffer& y) {
  return true_quantise(ctx, x, how, y) + (--calls_until_fault == 0);
}

TEST(Trainer, ABadTileAloneMakesABadStep) {
  faulty = kernels::best();
  true_quantise = faulty.quantize_rows;
  faulty.quantize_rows = one_bad_tile;
  calls_until_fault = 5;
  Session r(fp8_run(), 1, faulty);
  const StepReport once = r.trainer.step();  // gone when the step is computed again
  EXPECT_EQ(once.outcome, StepOutcome::updated);
  EXPECT_TRUE(once.recomputed);
  EXPECT_EQ(once.nonfinite_tiles, 0);
}

TEST(Trainer, NarrowSumsNeedTheReferenceKernels) {
  RunConfig run = fp8_run();
  run.fp8.accumulate_bits = 14;
  EXPECT_THROW(Session{run}, core::Error);
  Session r(run, 1, kernels::reference());
  Session wide(fp8_run(), 1, kernels::reference());
  EXPECT_NE(r.steps(1), wide.steps(1));
}

// Tensors of a slab whose rows no block divides.
model::ModelConfig model_of_many_blocks() {
  model::ModelConfig c = tiny_model();
  c.hidden_size = 160, c.moe_intermediate_size = 136, c.q_lora_rank = 140, c.kv_lora_rank = 20;
  return c;
}

TEST(Trainer, AnFp8FolderHoldsTheCodesThatLayersMultiply) {
  for (const bool power_of_two : {false, true}) {
    RunConfig run = fp8_run();
    run.fp8.power_of_two_scales = power_of_two;
    const model::ModelConfig config = model_of_many_blocks();
    const model::ParameterList list = model::list_parameters(config);
    core::Team team(2);
    Trainer trainer(run, config, list, team, kernels::best(), fill_tokens);
    trainer.state().initialise(config, 1, trainer.context());
    for (int i = 0; i < 3; ++i) trainer.step();

    const finback::testing::TempFolder temporary;
    Snapshot snapshot(list, precision_of(run), core::DType::bf16);
    snapshot.copy(trainer.state(), trainer.context());
    const CheckpointContent content{config, list, core::DType::e4m3, "", "", 1, {}, power_of_two};
    const std::string path = write_checkpoint(temporary.path(), content, snapshot);
    EXPECT_TRUE(faults_of(path).empty());
    const formats::ModelFolder folder(path);
    EXPECT_TRUE(folder.check(list).empty());
    const model::SlabBuffers& weights = trainer.state().weights;
    const auto bytes_of = [&](const std::string& name, core::Mat expected) {
      const auto t = folder.find(name);
      ASSERT_TRUE(t && t.info->bytes() == static_cast<std::uint64_t>(expected.bytes())) << name;
      std::vector<char> bytes(t.info->bytes());
      t.file->read(*t.info, bytes.data());
      EXPECT_EQ(0, std::memcmp(bytes.data(), expected.data, bytes.size())) << name;
    };
    for (const model::Parameter& p : list.parameters) {
      if (!p.fp8) continue;
      const auto s = static_cast<std::size_t>(p.slab);
      const model::Slab& slab = list.slabs[s];
      const std::int64_t tile =
          p.row / slab.rows * kernels::row_tiles(slab.rows, slab.parts) + kernels::row_tile_of(p.row % slab.rows, slab.parts);
      bytes_of(p.name, weights.of(p));
      bytes_of(formats::scale_name(p.name), weights.scales[s].row_range(tile, kernels::tiles_of(p.rows)));
    }
  }
}

// Each switch changes what is computed, and a few steps of it still learn.
TEST(Trainer, TheSwitchesOfFp8TakeEffect) {
  Session published(fp8_run());
  const std::vector<double> losses = published.steps(30);
  const auto tried = [&](const std::function<void(RunConfig&)>& change) {
    RunConfig run = fp8_run();
    change(run);
    Session r(run);
    const std::vector<double> other = r.steps(30);
    EXPECT_NE(other, losses);
    EXPECT_LT(other.back(), 3);
  };
  tried([](RunConfig& run) { run.fp8.gradient_format = "e5m2"; });
  tried([](RunConfig& run) { run.fp8.gradient_tile = "128x128"; });
  tried([](RunConfig& run) { run.fp8.power_of_two_scales = true; });
}

TEST(Trainer, ATraceChangesNoBitAndAllocatesNothing) {
  const kernels::TracedTable traced(kernels::best());
  core::Spans spans(1 << 12);
  Session a(tiny_run(), 2), b(tiny_run(), 2, traced, fill_tokens, &spans);
  a.steps(2);
  b.steps(1);
  EXPECT_EQ(allocations_during([&] { b.trainer.step(); }), 0);
  expect_same_state(a.trainer.state(), b.trainer.state());
  EXPECT_GT(spans.count(), 200);
}

// Bytes a parameter: 2 of the compute copy, 4 of the master, 2 · 2 of the moments, 4 of the gradient; each kind in whole pages.
TEST(Trainer, MemoryByKindFollowsFromTheParameters) {
  model::ModelConfig model = tiny_model();
  model.vocab_size = 100'000;
  const model::ParameterList list = model::list_parameters(model);
  RunConfig run = tiny_run();
  const auto close = [&](std::int64_t bytes, double a_parameter) {
    EXPECT_NEAR(static_cast<double>(bytes), a_parameter * static_cast<double>(list.total()), 2.2e6);
    EXPECT_EQ(bytes % (2 << 20), 0);
  };
  const MemoryByKind bf16 = Trainer::memory_needed(run, model, list, 1);
  close(bf16.weights, 2);
  close(bf16.master, 4);
  close(bf16.moments, 4);
  close(bf16.gradients, 4);
  EXPECT_GT(bf16.activations, 0);
  run.train.precision = "fp8";  // of what linear layers multiply one byte, and scales; the rest, here nearly all, in bf16
  const MemoryByKind fp8 = Trainer::memory_needed(run, model, list, 1);
  close(fp8.weights, 2);
  model::ModelConfig wide = tiny_model();
  wide.hidden_size = 512, wide.moe_intermediate_size = 2048, wide.n_routed_experts = 8, wide.n_group = 1;
  const model::ParameterList experts = model::list_parameters(wide);
  EXPECT_NEAR(static_cast<double>(Trainer::memory_needed(run, wide, experts, 1).weights), static_cast<double>(experts.total()), 2.2e6);
  run.train.precision = "fp32";
  const MemoryByKind fp32 = Trainer::memory_needed(run, model, list, 1);
  EXPECT_EQ(fp32.weights, 0);
  close(fp32.master, 4);
}

}  // namespace
}  // namespace finback::train
