#include "model/params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace finback::model {
namespace {

// The published model: config.json of DeepSeek-V3.
ModelConfig v3() {
  ModelConfig c;
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.num_hidden_layers = 61;
  c.num_nextn_predict_layers = 1;
  c.first_k_dense_replace = 3;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 8;
  c.n_group = 8;
  c.topk_group = 4;
  return c;
}

const Parameter& named(const ParameterList& list, std::string_view name) {
  for (const Parameter& p : list.parameters)
    if (p.name == name) return p;
  throw std::runtime_error("no parameter " + std::string(name));
}

// Published: 671,026,419,200 in the main model; a decoder layer of 11,507,286,272 and 102,781,952 of norms and eh_proj in
// the MTP layer, beside its copies of embedding and head.
TEST(Parameters, CountsOfDeepSeekV3) {
  const ParameterList list = list_parameters(v3());
  std::int64_t main = 0, mtp = 0;
  for (const Parameter& p : list.parameters) (p.name.starts_with("model.layers.61.") ? mtp : main) += p.size();
  EXPECT_EQ(main, 671026419200);
  EXPECT_EQ(mtp, 11507286272 + 102781952);
  EXPECT_EQ(list.duplicates.size(), 2u);
}

TEST(Parameters, ShapesAndNamesOfDeepSeekV3) {
  using Shape = std::vector<std::int64_t>;
  const ParameterList list = list_parameters(v3());
  EXPECT_EQ(named(list, "model.layers.5.self_attn.kv_a_proj_with_mqa.weight").shape, (Shape{576, 7168}));
  EXPECT_EQ(named(list, "model.layers.5.mlp.experts.255.down_proj.weight").shape, (Shape{7168, 2048}));
  EXPECT_EQ(named(list, "model.layers.0.mlp.up_proj.weight").shape, (Shape{18432, 7168}));
  EXPECT_EQ(named(list, "model.layers.61.eh_proj.weight").shape, (Shape{7168, 14336}));
  EXPECT_TRUE(named(list, "model.layers.60.mlp.gate.e_score_correction_bias").keep_f32);
}

// Every row of every slab belongs to exactly one parameter.
TEST(Parameters, SlabsAreCoveredOnce) {
  ModelConfig plain_q = v3();
  plain_q.q_lora_rank = 0;
  for (const ModelConfig& config : {v3(), plain_q}) {
    const ParameterList list = list_parameters(config);
    std::vector<std::set<std::pair<std::int64_t, std::int64_t>>> pieces(list.slabs.size());  // (first row, rows)
    std::set<std::string> names;
    for (const Parameter& p : list.parameters) {
      pieces[static_cast<std::size_t>(p.slab)].insert({p.row, p.rows});
      EXPECT_EQ(p.cols, list.slabs[static_cast<std::size_t>(p.slab)].cols) << p.name;
      EXPECT_TRUE(names.insert(p.name).second) << p.name;
    }
    for (std::size_t s = 0; s < pieces.size(); ++s) {
      std::int64_t row = 0;
      for (const auto& [first, rows] : pieces[s]) {
        EXPECT_EQ(first, row) << list.slabs[s].name;
        row += rows;
      }
      EXPECT_EQ(row, list.slabs[s].groups * list.slabs[s].rows) << list.slabs[s].name;
    }
  }
}

TEST(Parameters, InitialValuesDependOnSeedAndNameAlone) {
  ModelConfig c = v3();
  c.vocab_size = 97;
  c.hidden_size = 48;
  c.intermediate_size = 40;
  c.moe_intermediate_size = 24;
  c.num_hidden_layers = 2;
  c.first_k_dense_replace = 1;
  c.num_attention_heads = 2;
  c.q_lora_rank = c.kv_lora_rank = 16;
  c.n_routed_experts = 16;
  c.initializer_range = 0.006;
  const ParameterList list = list_parameters(c);
  core::Team one(1), two(2);
  core::Arena arena("test", 16 << 20);
  const auto fill = [&](core::Team& team, std::uint64_t seed) {
    const SlabBuffers b = take_slabs(arena, list, core::DType::f32);
    initialise(c, list, seed, team, b);
    return b;
  };
  const SlabBuffers x = fill(one, 7), y = fill(two, 7), z = fill(one, 8);
  double sum = 0, squares = 0;
  std::int64_t n = 0, different = 0;
  for (const Parameter& p : list.parameters)
    for (std::int64_t i = 0; i < p.size(); ++i) {
      const float value = x.of(p).row<float>(0)[i];
      ASSERT_EQ(value, y.of(p).row<float>(0)[i]) << p.name;
      if (p.init != Init::normal) {
        ASSERT_EQ(value, p.init == Init::ones ? 1.0f : 0.0f) << p.name;
        continue;
      }
      different += value != z.of(p).row<float>(0)[i];
      sum += static_cast<double>(value);
      squares += static_cast<double>(value) * static_cast<double>(value);
      ++n;
    }
  EXPECT_GT(different, n * 99 / 100);
  // Mean and deviation within five standard errors.
  EXPECT_LT(std::abs(sum / static_cast<double>(n)), 5 * 0.006 / std::sqrt(static_cast<double>(n)));
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(n)), 0.006, 5 * 0.006 / std::sqrt(2.0 * static_cast<double>(n)));
}

}  // namespace
}  // namespace finback::model
