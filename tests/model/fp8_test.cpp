// FP8 layers: against the plain products where codes hold every number exactly, against the model in double within what the
// formats allow, and the activation store against its list.
#include "core/rng.h"
#include "model/kept.h"
#include "model/linear.h"
#include "model/transformer.h"
#include "tests/model/odd_shape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace finback::model {
namespace {

using core::ConstMat;
using core::DType;
using core::Mat;

// One linear layer, dense or grouped, twice: in f32, and in codes with scales that are powers of two. All numbers are small
// integers times a power of two, which E4M3 holds (E5M2: up to 4), and all sums are integers below 2^24: both must be the same.
struct Layer {
  std::vector<std::int64_t> offsets, parts;
  std::int64_t cols;
  Fp8 fp8;
  bool dispatched = false;  // x and dy come as codes, as the MoE's

  core::Arena memory{"layer", 64 << 20}, tiles{"tiles", 16 << 20}, scratch{"scratch", kernels::scratch_bytes(2)};
  core::Team team{2};
  std::int64_t nonfinite = 0;

  std::int64_t groups() const { return std::ssize(offsets) - 1; }
  std::int64_t rows() const { return std::accumulate(parts.begin(), parts.end(), std::int64_t{0}); }

  Mat integers(std::uint32_t stream, std::int64_t height, std::int64_t width, int most) {
    const Mat x = memory.take_mat(DType::f32, height, width);
    const core::Rng rng(9, core::Stream::test, stream);
    for (std::int64_t i = 0; i < x.size(); ++i)
      x.row<float>(0)[i] = std::ldexp(
          static_cast<float>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(2 * most + 1))) - static_cast<float>(most),
          -3);
    return x;
  }

  struct Results {
    Mat y, dx, dw;
  };
  Results take_results() {
    const std::int64_t S = offsets.back();
    Results r{memory.take_mat(DType::f32, S, rows()), memory.take_mat(DType::f32, S, cols),
              memory.take_mat(DType::f32, groups() * rows(), cols)};
    std::fill_n(r.dw.row<float>(0), r.dw.size(), 0.0f);
    return r;
  }

  void compare(std::string_view table) {
    const kernels::Context ctx{kernels::by_name(table), team, scratch};
    const ModelConfig config;
    const Mat w = integers(1, groups() * rows(), cols, 7), x = integers(2, offsets.back(), cols, 7),
              dy = integers(3, offsets.back(), rows(), 4);
    const auto run_of = [&](const SlabBuffers& weights, const SlabBuffers& gradients, std::optional<Fp8> how) {
      return Run{ctx, config, {DType::f32, DType::f32, how}, weights, &gradients, offsets.back(), 1, {},
                 {},  {},     ActivationStorage::full,       &tiles,  &nonfinite};
    };
    const Results plain = take_results(), coded = take_results();
    {
      const SlabBuffers weights{{w}, {}, {}}, gradients{{plain.dw}, {}, {}};
      const Run run = run_of(weights, gradients, std::nullopt);
      linear_forward(run, x, 0, offsets, {}, plain.y);
      linear_backward_input(run, dy, 0, offsets, {}, plain.dx);
      linear_backward_weight(run, dy, x, 0, offsets);
    }
    fp8.power_of_two_scales = true;
    const Precision precision{DType::f32, DType::f32, fp8};
    const Mat codes = memory.take_mat(DType::e4m3, w.rows, cols);
    const SlabBuffers weights{
        {codes}, {memory.take_mat(DType::f32, groups() * kernels::row_tiles(rows(), parts), kernels::tiles_of(cols))}, {parts}};
    const SlabBuffers gradients{{coded.dw}, {}, {}};
    EXPECT_EQ(round_weights(ctx, w, precision, weight_rows(weights, 0, 0, w.rows)), 0);
    const Run run = run_of(weights, gradients, fp8);
    const LinearInput input{x, take_codes(memory, DType::e4m3, x.rows, cols)};
    quantise(run, input);
    Operand gradient(dy);
    if (dispatched) {
      const kernels::ScaledBuffer c = take_codes(memory, fp8.gradient_format, dy.rows, dy.cols);
      quantise_gradient(run, dy, all_rows(dy), true, c);
      gradient = Operand(c, true);
    }
    linear_forward(run, input, 0, offsets, {}, coded.y);
    linear_backward_input(run, gradient, 0, offsets, {}, coded.dx);
    linear_backward_weight(run, gradient, input, 0, offsets);
    EXPECT_EQ(nonfinite, 0);
    EXPECT_EQ(tiles.used(), 0);
    for (const auto& [a, b, name] : {std::tuple{plain.y, coded.y, "y"}, {plain.dx, coded.dx, "dx"}, {plain.dw, coded.dw, "dw"}})
      for (std::int64_t i = 0; i < a.size(); ++i)
        ASSERT_EQ(a.row<float>(0)[i], b.row<float>(0)[i]) << name << ", element " << i << " of " << a.rows << " x " << a.cols;
  }
};

class Fp8Layers : public testing::TestWithParam<std::string_view> {};

TEST_P(Fp8Layers, GiveWhatPlainLayersGiveWhereCodesAreExact) {
  const std::vector<std::vector<std::int64_t>> all_offsets = {{0, 7}, {0, 131, 131, 140}};
  for (const auto& offsets : all_offsets)
    for (const bool dispatched : {false, true})
      for (const bool blocks : {false, true})
        for (const DType format : {DType::e4m3, DType::e5m2}) {
          Layer layer{offsets, {20, 9}, 133};
          layer.fp8.gradient_format = format;
          layer.fp8.gradient_blocks = blocks;
          layer.dispatched = dispatched;
          layer.compare(GetParam());
        }
  Layer{{0, 3}, {130, 5}, 12}.compare(GetParam());
}

TEST_P(Fp8Layers, CountTilesWithNaNsAndInfinities) {
  Layer layer{{0, 3}, {5}, 140};
  const kernels::Context ctx{kernels::by_name(GetParam()), layer.team, layer.scratch};
  const Mat x = layer.integers(2, 3, 140, 7);
  x.row<float>(0)[3] = INFINITY;
  x.row<float>(2)[133] = NAN;
  const ModelConfig config;
  const SlabBuffers none;
  const model::Run run{ctx, config, precision_of("fp8"),     none,         nullptr,         3, 1, {},
                       {},  {},     ActivationStorage::full, &layer.tiles, &layer.nonfinite};
  quantise(run, {x, take_codes(layer.memory, DType::e4m3, 3, 140)});
  EXPECT_EQ(layer.nonfinite, 2);
}

INSTANTIATE_TEST_SUITE_P(Tables, Fp8Layers, testing::ValuesIn(kernels::runnable()),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(Precision, CodesAreKeptOfFp8LayersOnly) {
  for (const char* storage : {"full", "bf16", "fp8", "paper"}) check_storage(precision_of("fp8"), activation_storage_of(storage));
  for (const char* precision : {"bf16", "fp32", "fp64"})
    for (const char* storage : {"fp8", "paper"})
      EXPECT_THROW(check_storage(precision_of(precision), activation_storage_of(storage)), core::Error) << precision << ' ' << storage;
}

// Shapes whose lists differ: with and without q_lora_rank, shared experts, MTP; what 128 divides and what it does not.
TEST(ActivationStore, TakesWhatItsListSays) {
  ModelConfig no_q = odd_shape();
  no_q.q_lora_rank = 0;
  no_q.n_shared_experts = 0;
  ModelConfig dense = odd_shape();
  dense.first_k_dense_replace = dense.num_hidden_layers, dense.n_routed_experts = 0, dense.num_nextn_predict_layers = 0;
  ModelConfig wide = odd_shape();
  wide.hidden_size = 384, wide.moe_intermediate_size = 160, wide.v_head_dim = 96, wide.num_nextn_predict_layers = 2;
  constexpr std::int64_t kTokens = 4096;
  for (const ModelConfig& config : {odd_shape(), no_q, dense, wide})
    for (const char* precision : {"fp32", "bf16", "fp8"})
      for (const char* storage : {"full", "bf16", "fp8", "paper"}) {
        const Precision p = precision_of(precision);
        if (!p.fp8 && (std::string_view(storage) == "fp8" || std::string_view(storage) == "paper")) continue;
        const Transformer::Options options{.precision = p,
                                           .storage = activation_storage_of(storage),
                                           .max_tokens = kTokens,
                                           .max_seq_len = 512,
                                           .max_sequences = 8,
                                           .training = true};
        const auto taken = static_cast<double>(Transformer::memory_needed(config, options).activations);
        const auto listed = static_cast<double>(kTokens * kept_bytes_per_token(config, p, options.storage));
        EXPECT_NEAR(taken / listed, 1, 0.01) << precision << ' ' << storage;
      }
}

// The published savings, at the shape of configs/models/small.json.
TEST(ActivationStore, PaperIsSmall) {
  const ModelConfig small = read_config(FINBACK_SOURCE_DIR "/configs/models/small.json");
  const Precision fp8 = precision_of("fp8");
  const auto bytes = [&](ActivationStorage s) { return static_cast<double>(kept_bytes_per_token(small, fp8, s)); };
  EXPECT_LE(bytes(ActivationStorage::paper), 0.70 * bytes(ActivationStorage::bf16));
  EXPECT_LE(bytes(ActivationStorage::paper), 0.35 * bytes(ActivationStorage::full));
  EXPECT_LT(bytes(ActivationStorage::fp8), bytes(ActivationStorage::paper));
}

}  // namespace
}  // namespace finback::model
