// What must be the same bits, on every instruction set: recomputed or kept, one thread or two, alone or in a batch. And what
// must be near: every instruction set and precision to the reference in double.
#include "core/rng.h"
#include "model/transformer.h"
#include "tests/model/odd_shape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace finback::model {
namespace {

using core::DType;

constexpr std::int64_t kSequences = 3, kLength = 37;

struct Setup {
  const char* table;
  Precision precision;
  int threads = 2;
  ActivationStorage storage = ActivationStorage::full;
};

struct Result {
  LossSums sums;
  std::vector<std::vector<double>> gradients;  // one a slab
};

struct Tokens {
  std::vector<std::int32_t> inputs, targets;
  explicit Tokens(std::int64_t vocab_size) {
    const core::Rng rng(5, core::Stream::test);
    for (std::uint64_t t = 0; t < kSequences * kLength; ++t) {
      inputs.push_back(static_cast<std::int32_t>(rng.below(2 * t, static_cast<std::uint64_t>(vocab_size))));
      targets.push_back(t % 11 == 3 ? -1 : static_cast<std::int32_t>(rng.below(2 * t + 1, static_cast<std::uint64_t>(vocab_size))));
    }
  }
};

// Weights that every precision holds exactly: rounded to BF16.
SlabBuffers rounded_weights(const ModelConfig& config, const ParameterList& list, const kernels::Context& ctx, const Precision& precision,
                            core::Arena& arena) {
  const SlabBuffers master = take_slabs(arena, list, DType::f32), narrow = take_slabs(arena, list, DType::bf16),
                    out = take_weights(arena, list, precision);
  initialise(config, list, 3, ctx.team, master);
  for (std::size_t s = 0; s < list.slabs.size(); ++s) {
    ctx.kernels.convert(ctx, master.slabs[s], narrow.slabs[s]);
    ctx.kernels.convert(ctx, narrow.slabs[s], master.slabs[s]);
    EXPECT_EQ(round_weights(ctx, master.slabs[s], precision, weight_rows(out, s, 0, out.slabs[s].rows)), 0);
  }
  return out;
}

Result step(const ModelConfig& config, const Setup& setup) {
  const ParameterList list = list_parameters(config);
  core::Arena memory("parameters", 256 << 20), scratch("scratch", kernels::scratch_bytes(setup.threads));
  core::Team team(setup.threads);
  const kernels::Context ctx{kernels::by_name(setup.table), team, scratch};
  const SlabBuffers weights = rounded_weights(config, list, ctx, setup.precision, memory);
  const SlabBuffers gradients = take_slabs(memory, list, setup.precision.accumulator);
  const Tokens tokens(config.vocab_size);
  Transformer transformer(config, list,
                          {.precision = setup.precision,
                           .storage = setup.storage,
                           .max_tokens = kSequences * kLength,
                           .max_seq_len = kLength,
                           .training = true});
  Result r;
  r.sums.reset(config);
  const LossWeights scale{.main = 1.0 / (kSequences * kLength), .mtp = 0.3 / (kSequences * kLength), .sequence_balance = 1e-2 / kSequences};
  transformer.forward_backward({ctx, weights, &gradients, scale, /*with_mtp=*/true}, {kSequences, kLength, tokens.inputs, tokens.targets},
                               r.sums);
  for (const core::Mat& g : gradients.slabs) {
    std::vector<double>& values = r.gradients.emplace_back();
    for (std::int64_t i = 0; i < g.size(); ++i)
      values.push_back(g.dtype == DType::f64 ? g.row<double>(0)[i] : static_cast<double>(g.row<float>(0)[i]));
  }
  return r;
}

void expect_same_bits(const Result& a, const Result& b, const char* what) {
  EXPECT_EQ(a.sums.main, b.sums.main) << what;
  EXPECT_EQ(a.sums.mtp, b.sums.mtp) << what;
  EXPECT_EQ(a.sums.balance, b.sums.balance) << what;
  EXPECT_EQ(a.sums.expert_load, b.sums.expert_load) << what;
  for (std::size_t s = 0; s < a.gradients.size(); ++s) EXPECT_EQ(a.gradients[s], b.gradients[s]) << what << ", slab " << s;
}

class Exactness : public testing::TestWithParam<std::string_view> {};

TEST_P(Exactness, RecomputationAndThreadsChangeNoBit) {
  const std::string table(GetParam());
  for (const char* name : {"fp32", "bf16", "fp8"}) {
    const Precision precision = precision_of(name);
    const Result base = step(odd_shape(), {table.c_str(), precision});
    expect_same_bits(base, step(odd_shape(), {table.c_str(), precision, 2, ActivationStorage::bf16}), "recomputed");
    expect_same_bits(base, step(odd_shape(), {table.c_str(), precision, 1}), "one thread");
  }
}

TEST_P(Exactness, CodesThatAreKeptAreTheSameForAnyNumberOfThreads) {
  const std::string table(GetParam());
  for (const ActivationStorage storage : {ActivationStorage::fp8, ActivationStorage::paper})
    expect_same_bits(step(odd_shape(), {table.c_str(), precision_of("fp8"), 3, storage}),
                     step(odd_shape(), {table.c_str(), precision_of("fp8"), 1, storage}), "one thread");
}

TEST_P(Exactness, ASequenceHasTheSameLossesAloneAndInABatch) {
  const ModelConfig config = odd_shape();
  const ParameterList list = list_parameters(config);
  const Tokens tokens(config.vocab_size);
  for (const char* name : {"fp32", "bf16", "fp8"}) {
    const Precision precision = precision_of(name);
    core::Arena memory("parameters", 256 << 20), scratch("scratch", kernels::scratch_bytes(2));
    core::Team team(2);
    const kernels::Context ctx{kernels::by_name(GetParam()), team, scratch};
    const SlabBuffers weights = rounded_weights(config, list, ctx, precision, memory);
    Transformer transformer(config, list, {.precision = precision, .max_tokens = kSequences * kLength, .max_seq_len = kLength});
    std::vector<float> together(kSequences * kLength), alone(kLength);
    const auto score = [&](std::int64_t first, std::int64_t sequences, std::int64_t length, float* out) {
      const auto at = static_cast<std::size_t>(first * kLength), n = static_cast<std::size_t>(sequences * length);
      transformer.score(ctx, weights,
                        {sequences, length, std::span(tokens.inputs).subspan(at, n), std::span(tokens.targets).subspan(at, n)},
                        core::mat(out, DType::f32, 1, sequences * length));
    };
    score(0, kSequences, kLength, together.data());
    for (std::int64_t s = 0; s < kSequences; ++s)
      for (const std::int64_t length : {kLength, kLength - 5, std::int64_t{1}}) {
        score(s, 1, length, alone.data());
        for (std::int64_t t = 0; t < length; ++t)
          ASSERT_EQ(alone[static_cast<std::size_t>(t)], together[static_cast<std::size_t>(s * kLength + t)])
              << "sequence " << s << " of " << length << ", position " << t;
      }
  }
}

// All experts are chosen, so that rounding cannot change a choice. Per tensor ‖g − g_ref‖ ≤ c · eps · ‖g_ref‖. fp32 and bf16: eps = 2^-24
// and 2^-9, c = 64: some thirty roundings lie between a parameter and the loss here, a few of which cancel. fp8: eps = 2^-4, c = 8: each of
// some twelve products has two factors whose rounding is eps / √6 in the mean square, which is 2 eps in all; norms and softmax make up to
// four times that of it. The loss is a mean over tokens near ln(vocab_size), in which little of that shows.
TEST_P(Exactness, LossAndGradientsAreNearTheReference) {
  ModelConfig config = odd_shape();
  config.n_group = config.topk_group = 1;
  config.num_experts_per_tok = config.n_routed_experts;
  const Result reference = step(config, {"reference", precision_of("fp64")});
  struct Case {
    const char* name;
    double eps, c, of_loss;
    ActivationStorage storage;
  };
  for (const Case& tested :
       {Case{"fp32", 0x1p-24, 64, 16 * 0x1p-24, ActivationStorage::full}, Case{"bf16", 0x1p-9, 64, 16 * 0x1p-9, ActivationStorage::full},
        Case{"fp8", 0x1p-4, 8, 0x1p-5, ActivationStorage::full}, Case{"fp8", 0x1p-4, 8, 0x1p-5, ActivationStorage::fp8},
        Case{"fp8", 0x1p-4, 8, 0x1p-5, ActivationStorage::paper}}) {
    const Result r = step(config, {std::string(GetParam()).c_str(), precision_of(tested.name), 2, tested.storage});
    EXPECT_NEAR(r.sums.main / reference.sums.main, 1, tested.of_loss) << tested.name;
    EXPECT_NEAR(r.sums.mtp[0] / reference.sums.mtp[0], 1, tested.of_loss) << tested.name;
    for (std::size_t s = 0; s < r.gradients.size(); ++s) {
      double difference = 0, norm = 0;
      for (std::size_t i = 0; i < r.gradients[s].size(); ++i) {
        difference += std::pow(r.gradients[s][i] - reference.gradients[s][i], 2);
        norm += std::pow(reference.gradients[s][i], 2);
      }
      EXPECT_LE(std::sqrt(difference), tested.c * tested.eps * std::sqrt(norm))
          << tested.name << ", slab " << list_parameters(config).slabs[s].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, Exactness, testing::ValuesIn(kernels::runnable()),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace finback::model
