// The ranks of a layout give the bits of one process that forms its sums as they do: every schedule, with MTP, the masters sharded.
#include "train/trainer.h"

#include "comm/threads.h"
#include "core/rng.h"
#include "tests/train/tiny_model.h"
#include "train/layout.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

namespace finback::train {
namespace {

constexpr std::int64_t kSeqLen = 12;
constexpr int kSteps = 3;

struct Case {
  std::string schedule;
  int pp, dp;
  std::string precision, storage;
  int micro_batches = 4;  // of a rank
  int ep = 1;
  double max_imbalance = 1.5;
  int ranks() const { return pp * dp; }
};

RunConfig run_of(const Case& c) {
  RunConfig run;
  run.data.seq_len = kSeqLen;
  run.train.steps = 40;
  run.train.precision = c.precision;
  run.train.activation_storage = c.storage;
  run.train.micro_batch = 2, run.train.global_batch = c.micro_batches * run.train.micro_batch * c.dp;
  run.optimizer.lr = 1e-2, run.optimizer.min_lr = 1e-3, run.optimizer.warmup_steps = 4;
  run.parallel.pp = c.pp, run.parallel.dp = c.dp, run.moe.max_imbalance = c.max_imbalance, run.parallel.ep = c.ep,
  run.parallel.schedule = c.schedule;
  return run;
}

// Big enough that slabs have several block rows, of FP8's 128 and of parts that 128 does not divide.
model::ModelConfig wide_model() {
  model::ModelConfig m = tiny_model();
  m.vocab_size = 400;
  m.intermediate_size = 200;
  m.moe_intermediate_size = 72;
  return m;
}

void fill_tokens(std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
  const core::Rng rng(5, core::Stream::test);
  const auto token = [&](std::uint64_t i) { return static_cast<std::int32_t>(rng.below(i, 400)); };
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::uint64_t at = static_cast<std::uint64_t>(first * kSeqLen) + i;
    inputs[i] = token(at);
    targets[i] = rng.uniform(at) < 0.1 ? -1 : token(at + 1);
  }
}

// What a run comes to: the steps' numbers and, put together, every weight and moment.
struct Outcome {
  std::vector<double> numbers;
  std::map<std::string, std::string> weights;  // of what the process holds, by name
  std::string state;
  std::int64_t owned_bytes = 0;
};

std::string bytes_of(const std::vector<core::Mat>& slabs) {
  std::string all;
  for (const core::Mat& x : slabs)
    if (x) all.append(static_cast<const char*>(x.data), static_cast<std::size_t>(x.bytes()));
  return all;
}

Outcome train(const RunConfig& run, const model::ModelConfig& model, comm::Communicator* ranks) {
  const model::ParameterList list = model::list_parameters(model);
  core::Team team(1);
  const std::unique_ptr<parallel::Member> member = ranks ? join(run, model, list, *ranks) : nullptr;
  Trainer trainer(run, model, list, team, kernels::best(), fill_tokens, nullptr, member.get());
  trainer.state().initialise(model, 1, trainer.context());
  Outcome out;
  for (int i = 0; i < kSteps; ++i) {
    const StepReport r = trainer.step();
    EXPECT_EQ(r.outcome, StepOutcome::updated);
    out.numbers.insert(out.numbers.end(), {r.loss, r.mtp_loss, r.mtp_acceptance, r.balance_loss, r.grad_norm, r.imbalance,
                                           static_cast<double>(r.tokens), static_cast<double>(r.nonfinite_tiles)});
  }
  TrainState& state = trainer.state();
  for (const model::Parameter& p : state.list.parameters) out.weights[p.name] = bytes_of({state.weights.of(p)});
  for (const model::SlabBuffers* share : {&state.master, &state.m, &state.v}) {
    out.owned_bytes += static_cast<std::int64_t>(bytes_of(share->slabs).size());
    if (!member) {
      out.state += bytes_of(share->slabs);
      continue;
    }
    core::Arena arena("whole", 64 << 20);
    const core::DType type = share == &state.master ? core::DType::f32 : core::DType::bf16;
    const model::SlabBuffers whole = model::take_slabs(arena, list, type, /*trained_only=*/share != &state.master);
    member->collect(*share, ranks->rank() == 0 ? &whole : nullptr);
    if (ranks->rank() == 0) out.state += bytes_of(whole.slabs);
  }
  return out;
}

class Ranks : public ::testing::TestWithParam<Case> {};

TEST_P(Ranks, GiveTheBitsOfOneProcessToldTheirSums) {
  const Case& c = GetParam();
  const model::ModelConfig model = wide_model();
  const RunConfig run = run_of(c);
  const Outcome one = train(run, model, nullptr);
  std::vector<Outcome> each(static_cast<std::size_t>(c.ranks()));
  comm::run_threads(c.ranks(), {.timeout = 60},
                    [&](comm::Communicator& ranks) { each[static_cast<std::size_t>(ranks.rank())] = train(run, model, &ranks); });
  std::int64_t owned = 0;
  for (const Outcome& rank : each) {
    EXPECT_EQ(rank.numbers, one.numbers);
    for (const auto& [name, bytes] : rank.weights) EXPECT_TRUE(bytes == one.weights.at(name)) << name;
    owned += rank.owned_bytes;
  }
  EXPECT_TRUE(each[0].state == one.state);
  // Masters and moments are held once over the ranks, but for the gates' biases.
  EXPECT_LT(owned, one.owned_bytes + one.owned_bytes / 50);
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, Ranks,
    ::testing::Values(Case{"1f1b", 1, 2, "fp32", "bf16"}, Case{"1f1b", 1, 3, "bf16", "bf16"}, Case{"1f1b", 1, 2, "fp8", "paper"},
                      Case{"1f1b", 2, 2, "fp32", "full"}, Case{"1f1b", 4, 1, "fp8", "paper", 6}, Case{"zb1p", 4, 1, "bf16", "full", 6},
                      Case{"zb1p", 2, 2, "fp8", "paper"}, Case{"dualpipe", 2, 1, "fp32", "bf16"}, Case{"dualpipe", 4, 2, "bf16", "bf16", 8},
                      Case{"dualpipe", 4, 1, "fp8", "paper", 10}, Case{"dualpipev", 1, 2, "bf16", "full"},
                      Case{"dualpipev", 2, 1, "fp8", "fp8", 5}, Case{"dualpipev", 4, 1, "fp32", "bf16", 9},
                      Case{"1f1b", 1, 2, "fp32", "full", 2, 2}, Case{"1f1b", 1, 4, "fp8", "paper", 2, 2},
                      Case{"1f1b", 1, 4, "bf16", "bf16", 2, 4, /*max_imbalance=*/1}, Case{"1f1b", 1, 2, "fp8", "full", 2, 2},
                      Case{"zb1p", 2, 2, "bf16", "full", 4, 2}, Case{"zb1p", 2, 2, "fp8", "paper", 4, 2},
                      Case{"dualpipe", 2, 2, "fp8", "paper", 4, 2}, Case{"dualpipe", 4, 2, "bf16", "bf16", 8, 2},
                      Case{"dualpipev", 2, 4, "fp8", "fp8", 4, 2}, Case{"dualpipev", 2, 2, "fp32", "full", 4, 2}),
    [](const auto& tested) {
      const Case& c = tested.param;
      return fmt::format("{}_pp{}_dp{}_ep{}_{}_{}", c.schedule, c.pp, c.dp, c.ep, c.precision, c.storage);
    });

// Another tree of sums gives other bits: the test above sees a difference where there is one.
TEST(RanksOrder, OfSumsShows) {
  RunConfig run = run_of({"1f1b", 1, 2, "fp32", "bf16"});
  const Outcome two = train(run, wide_model(), nullptr);
  run.parallel.dp = 1;
  const Outcome one = train(run, wide_model(), nullptr);
  EXPECT_FALSE(one.state == two.state);
  EXPECT_NEAR(one.numbers.front(), two.numbers.front(), 1e-6);
}

}  // namespace
}  // namespace finback::train
