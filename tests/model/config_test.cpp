#include "model/config.h"

#include "core/error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace finback::model {
namespace {

namespace json = boost::json;

json::object tiny() { return core::read_json_file(FINBACK_SOURCE_DIR "/configs/models/tiny.json").as_object(); }

TEST(Config, ReadsTheCommittedModelsAndWritesThemBack) {
  for (const char* name : {"tiny", "small"}) {
    const std::string path = fmt::format(FINBACK_SOURCE_DIR "/configs/models/{}.json", name);
    const ModelConfig c = read_config(path);
    EXPECT_EQ(to_json(parse_config(to_json(c), name)), to_json(c));
    const json::object file = core::read_json_file(path).as_object(), written = to_json(c);
    for (const auto& [key, value] : file) {
      if (value.is_number()) EXPECT_EQ(written.at(key).to_number<double>(), value.to_number<double>()) << key;
      else EXPECT_EQ(written.at(key), value) << key;
    }
  }
}

TEST(Config, ADenseModelReadsBack) {
  json::object dense = tiny();
  for (const char* key : {"n_routed_experts", "n_shared_experts", "num_experts_per_tok", "moe_intermediate_size", "n_group", "topk_group"})
    dense.erase(key);
  const ModelConfig c = parse_config(dense, "dense");
  EXPECT_EQ(to_json(parse_config(to_json(c), "written")), to_json(c));
}

TEST(Config, EveryBadFieldIsNamed) {
  const std::pair<const char*, json::value> cases[] = {
      {"model_type", "llama"},
      {"model_type", nullptr},
      {"num_attention_heads", 0},
      {"num_hidden_layers", 1000000000},
      {"num_experts_per_tok", 17},
      {"n_group", 3},
      {"topk_group", 5},
      {"vocab_size", -1},
      {"hidden_size", "256"},
      {"rope_theta", 0},
      {"qk_rope_head_dim", 15},
      {"hidden_act", "gelu"},
      {"attention_bias", true},
      {"tie_word_embeddings", true},
      {"scoring_func", "relu"},
      {"num_key_value_heads", 2},
      {"first_k_dense_replace", 99},
      {"eos_token_id", 8192},
      {"kv_lora_rank", nullptr},
      {"n_group", 16},
  };
  for (const auto& [key, value] : cases) {
    json::object o = tiny();
    o[key] = value;
    try {
      parse_config(o, "bad.json");
      ADD_FAILURE() << key << " was taken";
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::Exit::usage);
      EXPECT_NE(std::string(e.what()).find(key), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("bad.json"), std::string::npos) << e.what();
    }
  }
}

TEST(Config, ToleratesWhatPublishedFoldersCarry) {
  json::object o = tiny();
  o["aux_loss_alpha"] = 0.001;
  o["seq_aux"] = true;
  o["pretraining_tp"] = 1;
  o["ep_size"] = 1;
  o["transformers_version"] = "4.33.1";
  o["auto_map"] = json::object{{"AutoConfig", "configuration_deepseek.DeepseekV3Config"}};
  o["eos_token_id"] = json::array{1, 2};
  EXPECT_EQ(parse_config(o, "v3").eos_token_id, 1);
}

TEST(Config, NewerTransformersWriteRopeParameters) {
  json::object o = tiny();
  o.erase("rope_theta");
  o["rope_parameters"] = {{"rope_type", "yarn"}, {"rope_theta", 50000.0}, {"factor", 40.0}, {"original_max_position_embeddings", 4096},
                          {"mscale", 1.0},       {"mscale_all_dim", 1.0}};
  const ModelConfig c = parse_config(o, "new");
  EXPECT_EQ(c.rope_theta, 50000);
  ASSERT_TRUE(c.rope_scaling);
  EXPECT_EQ(c.rope_scaling->factor, 40);
}

ModelConfig v3_rope(double mscale) {
  ModelConfig c;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.rope_scaling = YarnConfig{40, 4096, 32, 1, mscale, mscale};
  return c;
}

// The published models' softmax scales (derived from their config.json).
TEST(Config, AttentionScaleHoldsTheYarnTemperature) {
  EXPECT_NEAR(v3_rope(1.0).attention_shape().scale, 0.1352338, 5e-8);
  EXPECT_NEAR(v3_rope(0.707).attention_shape().scale, 0.1147214, 5e-8);
  ModelConfig plain = v3_rope(1);
  plain.rope_scaling.reset();
  EXPECT_NEAR(plain.attention_shape().scale, 0.0721688, 5e-8);
}

// V3: pairs up to 10 keep their frequency, from 23 on it is divided by 40, between it is blended.
TEST(Config, YarnKeepsFastPairsAndSlowsTheOthers) {
  const ModelConfig yarn = v3_rope(1);
  ModelConfig plain = yarn;
  plain.rope_scaling.reset();
  std::vector<double> a(2 * 64), b(2 * 64);
  fill_rope_table(yarn, core::mat(a.data(), core::DType::f64, 2, 64));
  fill_rope_table(plain, core::mat(b.data(), core::DType::f64, 2, 64));
  for (std::size_t i = 0; i < 32; ++i) {
    const double with = std::atan2(a[64 + 2 * i + 1], a[64 + 2 * i]), without = std::atan2(b[64 + 2 * i + 1], b[64 + 2 * i]);
    EXPECT_NEAR(std::hypot(a[64 + 2 * i], a[64 + 2 * i + 1]), 1, 1e-12) << "cos and sin must not carry the temperature a second time";
    const double blend = i <= 10 ? 0 : i >= 23 ? 1 : (static_cast<double>(i) - 10) / 13;
    EXPECT_NEAR(with / without, 1 - blend * (1 - 1.0 / 40), 1e-9) << i;
  }
}

}  // namespace
}  // namespace finback::model
