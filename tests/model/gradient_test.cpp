// The whole model's gradients, in double on the reference kernels, against central differences of its loss.
#include "core/rng.h"
#include "model/transformer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace finback::model {
namespace {

struct Case {
  const char* name;
  void (*change)(ModelConfig&);
};

ModelConfig base() {
  ModelConfig c;
  c.vocab_size = 23;
  c.hidden_size = 12;
  c.intermediate_size = 10;
  c.moe_intermediate_size = 6;
  c.num_hidden_layers = 3;
  c.num_nextn_predict_layers = 1;
  c.first_k_dense_replace = 1;
  c.num_attention_heads = 2;
  c.q_lora_rank = 7;
  c.kv_lora_rank = 5;
  c.qk_nope_head_dim = 4;
  c.qk_rope_head_dim = 2;
  c.v_head_dim = 3;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.initializer_range = 0.4;  // large enough that every path carries a gradient
  return c;
}

class Gradient : public testing::TestWithParam<Case> {};

struct Model {
  // Weights that differ, so that a mix-up of the three losses shows.
  static constexpr LossWeights kScale{.main = 0.21, .mtp = 0.13, .sequence_balance = 0.37};
  ModelConfig config;
  ParameterList list = list_parameters(config);
  core::Arena memory{"parameters", 64 << 20}, scratch{"scratch", kernels::scratch_bytes(1)};
  core::Team team{1};
  kernels::Context ctx{kernels::reference(), team, scratch};
  SlabBuffers weights = take_slabs(memory, list, core::DType::f64), gradients = take_slabs(memory, list, core::DType::f64);
  SlabBuffers ignored = take_slabs(memory, list, core::DType::f64);
  std::vector<std::int32_t> inputs, targets;
  Transformer transformer;

  Model(const ModelConfig& c, ActivationStorage storage)
      : config(c),
        transformer(
            c, list,
            {.precision = {core::DType::f64, core::DType::f64}, .storage = storage, .max_tokens = 14, .max_seq_len = 7, .training = true}) {
    initialise(config, list, 3, team, weights);
    const core::Rng rng(5, core::Stream::test);
    for (const Parameter& p : list.parameters)  // norms and biases away from their start: general position
      if (p.init != Init::normal)
        for (std::int64_t i = 0; i < p.size(); ++i)
          weights.of(p).row<double>(0)[i] += 0.3 * rng.normal(static_cast<std::uint64_t>(p.slab * 1000 + i));
    for (std::uint64_t t = 0; t < 14; ++t) inputs.push_back(static_cast<std::int32_t>(rng.below(100 + t, 23)));
    for (std::uint64_t t = 0; t < 14; ++t) targets.push_back(t == 4 ? -1 : static_cast<std::int32_t>(rng.below(200 + t, 23)));
  }

  double loss(const SlabBuffers& into) {
    LossSums sums;
    sums.reset(config);
    transformer.forward_backward({ctx, weights, &into, kScale, /*with_mtp=*/true}, {2, 7, inputs, targets}, sums);
    double total = kScale.main * sums.main + kScale.sequence_balance * std::accumulate(sums.balance.begin(), sums.balance.end(), 0.0);
    for (const double m : sums.mtp) total += kScale.mtp * m;
    return total;
  }
};

TEST_P(Gradient, AgreesWithCentralDifferences) {
  ModelConfig config = base();
  GetParam().change(config);
  for (const ActivationStorage storage : {ActivationStorage::full, ActivationStorage::bf16}) {
    Model model(config, storage);
    model.loss(model.gradients);
    for (const Parameter& p : model.list.parameters) {
      if (!model.list.slabs[static_cast<std::size_t>(p.slab)].trained) continue;
      // Along a random direction of the whole tensor: one number tests all its elements.
      const core::Rng rng(11, core::Stream::test, static_cast<std::uint32_t>(p.slab * 1000 + p.row));
      double* w = model.weights.of(p).row<double>(0);
      const double* g = model.gradients.of(p).row<double>(0);
      const std::vector<double> start(w, w + p.size());
      const auto direction = [&](std::int64_t i) { return rng.normal(static_cast<std::uint64_t>(i)); };
      double analytic = 0, squares = 0;
      for (std::int64_t i = 0; i < p.size(); ++i) analytic += g[i] * direction(i), squares += g[i] * g[i];
      // Fourth-order central difference: its error is h⁴ f⁗′/30 plus 1e-16 f / h of rounding. The step is small also because
      // the loss jumps where a token changes its experts.
      const double h = 1e-5;
      const auto at = [&](double step) {
        for (std::int64_t i = 0; i < p.size(); ++i) w[i] = start[static_cast<std::size_t>(i)] + step * direction(i);
        return model.loss(model.ignored);
      };
      const double numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      std::copy(start.begin(), start.end(), w);
      EXPECT_NEAR(analytic, numeric, 1e-6 * std::max(std::abs(analytic), std::sqrt(squares)))
          << p.name << (storage == ActivationStorage::full ? ", kept" : ", computed again");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Gradient,
    testing::Values(Case{"v3", [](ModelConfig&) {}}, Case{"no_q_lora", [](ModelConfig& c) { c.q_lora_rank = 0; }},
                    Case{"yarn", [](ModelConfig& c) { c.rope_scaling = YarnConfig{4, 4, 32, 1, 1, 1}; }},
                    Case{"two_mtp_modules", [](ModelConfig& c) { c.num_nextn_predict_layers = 2; }},
                    Case{"mtp_before_norm", [](ModelConfig& c) { c.num_nextn_predict_layers = 2, c.mtp_hidden_post_norm = false; }},
                    Case{"all_dense",
                         [](ModelConfig& c) { c.first_k_dense_replace = 3, c.n_routed_experts = 0, c.num_nextn_predict_layers = 0; }},
                    Case{"no_shared", [](ModelConfig& c) { c.n_shared_experts = 0; }},
                    Case{"v2",
                         [](ModelConfig& c) {
                           c.model_type = "deepseek_v2", c.scoring_func = "softmax", c.topk_method = "greedy";
                           c.n_group = c.topk_group = 1, c.norm_topk_prob = false, c.routed_scaling_factor = 1,
                           c.num_nextn_predict_layers = 0;
                         }}),
    [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace finback::model
