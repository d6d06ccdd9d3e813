#include "model/flops.h"

#include "model/params.h"

#include <gtest/gtest.h>

namespace finback::model {
namespace {

ModelConfig shipped(const char* name) { return read_config(fmt::format("{}/configs/models/{}.json", FINBACK_SOURCE_DIR, name)); }

// The figures that the PyTorch twin's own formula gives for the same shapes.
TEST(Flops, EqualThePyTorchTwins) {
  EXPECT_NEAR(model_flops_per_token(shipped("tiny"), 256, false), 37.7e6, 0.05e6);
  EXPECT_NEAR(model_flops_per_token(shipped("small"), 512, false), 177.6e6, 0.05e6);
}

// Counted another way: every matrix of the list that a token meets, experts by the share that is active.
TEST(Flops, ActiveParametersFollowFromTheParameterList) {
  for (const char* name : {"tiny", "small"}) {
    const ModelConfig m = shipped(name);
    for (const bool with_mtp : {false, true}) {
      double expected = 0;
      for (const Parameter& p : list_parameters(m).parameters) {
        const bool in_mtp = p.name.find("layers." + std::to_string(m.num_hidden_layers) + ".") != std::string::npos;
        if (p.shape.size() != 2 || p.name == "model.embed_tokens.weight" || (in_mtp && !with_mtp)) continue;
        const bool routed = p.name.find(".mlp.experts.") != std::string::npos;
        const double share = routed ? static_cast<double>(m.num_experts_per_tok) / static_cast<double>(m.n_routed_experts) : 1;
        const double passes = p.name == "lm_head.weight" && with_mtp ? 2 : 1;
        expected += share * passes * static_cast<double>(p.size());
      }
      EXPECT_EQ(static_cast<double>(active_matmul_parameters(m, with_mtp)), expected) << name << with_mtp;
    }
  }
}

// [V3 Table 1, ISCA Table 2]: 37B of 671B parameters are active, about 250 GFLOP a token at 4K.
TEST(Flops, DeepSeekV3) {
  ModelConfig m = shipped("tiny");
  m.vocab_size = 129280, m.hidden_size = 7168, m.intermediate_size = 18432, m.moe_intermediate_size = 2048, m.num_hidden_layers = 61;
  m.first_k_dense_replace = 3, m.num_attention_heads = 128, m.q_lora_rank = 1536, m.kv_lora_rank = 512, m.qk_nope_head_dim = 128;
  m.qk_rope_head_dim = 64, m.v_head_dim = 128, m.n_routed_experts = 256, m.n_shared_experts = 1, m.num_experts_per_tok = 8;
  const auto active = static_cast<double>(active_matmul_parameters(m, false));
  EXPECT_NEAR(active + 129280.0 * 7168, 37.5e9, 0.6e9);  // the embedding is counted there
  EXPECT_NEAR(model_flops_per_token(m, 4096, false), 250e9, 10e9);
}

}  // namespace
}  // namespace finback::model
