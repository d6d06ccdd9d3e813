#include "formats/inspect.h"

#include "formats/megatron.h"
#include "tests/formats/small_model.h"
#include "tests/formats/temp_folder.h"

#include <boost/json/parse.hpp>

#include <cstring>
#include <limits>

namespace finback::formats {
namespace {

using core::Exit;
using finback::testing::expect_error;
using finback::testing::flip_bit;
using finback::testing::put_file;
using finback::testing::SmallModel;
using finback::testing::TempFolder;

ParameterCounts count(std::string_view json) {
  const auto config = model::parse_config(boost::json::parse(std::string(json)), "test");
  return count_parameters(config, model::list_parameters(config));
}

// The published shapes; totals by hand from them, active counts as the publishers state them.
TEST(CountParameters, AgreesWithThePublishedModels) {
  const auto v3 = count(R"({"model_type":"deepseek_v3","vocab_size":129280,"hidden_size":7168,"intermediate_size":18432,
    "moe_intermediate_size":2048,"num_hidden_layers":61,"num_nextn_predict_layers":1,"first_k_dense_replace":3,"n_routed_experts":256,
    "n_shared_experts":1,"num_experts_per_tok":8,"n_group":8,"topk_group":4,"num_attention_heads":128,"q_lora_rank":1536,
    "kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128})");
  EXPECT_EQ(v3.total, 671'026'419'200);
  EXPECT_NEAR(static_cast<double>(v3.active - v3.active_embedding), 36.6e9, 0.05e9);  // "36.6B, the head included"
  EXPECT_EQ(v3.active_embedding, 129280 * 7168);
  EXPECT_NEAR(static_cast<double>(v3.mtp), 11.610e9, 0.001e9);

  const auto moonlight = count(R"({"model_type":"deepseek_v3","vocab_size":163840,"hidden_size":2048,"intermediate_size":11264,
    "moe_intermediate_size":1408,"num_hidden_layers":27,"first_k_dense_replace":1,"n_routed_experts":64,"n_shared_experts":2,
    "num_experts_per_tok":6,"num_attention_heads":16,"q_lora_rank":null,"kv_lora_rank":512,"qk_nope_head_dim":128,
    "qk_rope_head_dim":64,"v_head_dim":128,"bos_token_id":163584,"eos_token_id":163585})");
  EXPECT_EQ(moonlight.total, 15'960'110'208);
  EXPECT_NEAR(static_cast<double>(moonlight.active - 2 * moonlight.active_embedding), 2.244e9, 0.001e9);
  EXPECT_EQ(moonlight.mtp, 0);
}

TEST(GroupTensors, NamesThatDifferInNumbersAreOneLine) {
  std::vector<TensorInfo> tensors;
  for (const int layer : {1, 2, 3, 7})
    for (int e = 0; e < 2; ++e)
      tensors.push_back({fmt::format("model.layers.{}.mlp.experts.{}.up.weight", layer, e), "BF16", {2, 3}, 0, 12});
  tensors.push_back({"model.layers.1.norm.weight", "F32", {3}, 0, 12});
  tensors.push_back({"model.layers.2.norm.weight", "BF16", {3}, 0, 6});
  tensors.push_back({"", "F32", {}, 0, 4});
  std::vector<const TensorInfo*> pointers;
  for (const auto& t : tensors) pointers.push_back(&t);
  const auto groups = group_tensors(pointers);
  ASSERT_EQ(groups.size(), 4u);
  EXPECT_EQ(groups[0].name, "model.layers.{1-3,7}.mlp.experts.{0-1}.up.weight");
  EXPECT_EQ(groups[0].tensors, 8);
  EXPECT_EQ(groups[0].bytes, 96u);
  EXPECT_EQ(groups[0].shape, "[2, 3]");
  EXPECT_EQ(groups[1].name, "model.layers.1.norm.weight");
  EXPECT_EQ(groups[3].name, "");
}

class Verify : public ::testing::Test {
 protected:
  Verify() {
    model_.initialise(3);
    for (const char* step : {"step-1", "step-2"}) write_checkpoint(run_ + "/checkpoints/" + step);
  }
  void write_checkpoint(const std::string& path) {
    Manifest m;
    for (auto& f : save_model(path, model_.config, model_.list, model_.weights, {})) m.add(std::move(f));
    core::make_directories(path + "/train_state");
    m.write(path + "/train_state/manifest.json");
  }
  std::vector<std::string> faults(const std::string& path, bool check_values = false) {
    std::vector<std::string> all;
    for (const auto& v : formats::verify(path, check_values)) all.insert(all.end(), v.faults.begin(), v.faults.end());
    return all;
  }

  TempFolder folder_;
  SmallModel model_;
  std::string run_ = folder_ / "run", first_ = run_ + "/checkpoints/step-1", second_ = run_ + "/checkpoints/step-2";
};

TEST_F(Verify, ARunIsAllItsCheckpoints) {
  core::write_file_atomic(run_ + "/config.json", core::pretty_json(model::to_json(model_.config)));  // as a run has
  std::filesystem::create_directory_symlink("step-2", run_ + "/checkpoints/latest");
  const auto all = formats::verify(run_, true);
  ASSERT_EQ(all.size(), 2u);
  for (const auto& v : all) {
    EXPECT_TRUE(v.faults.empty()) << v.faults.front();
    EXPECT_TRUE(v.has_checksums);
    EXPECT_EQ(v.kind, Kind::checkpoint);
    EXPECT_EQ(v.files, 3u);
  }
}

TEST_F(Verify, AFlippedBitIsNamedAndTheOtherCheckpointStillSeen) {
  const SafetensorsFile f(first_ + "/model.safetensors");
  flip_bit(f.path(), f.find("model.layers.1.mlp.experts.2.up_proj.weight")->begin + 3, 6);
  const auto all = formats::verify(run_, false);
  ASSERT_EQ(all.size(), 2u);
  ASSERT_EQ(all[0].faults.size(), 1u);
  EXPECT_NE(all[0].faults[0].find("step-1/model.safetensors: tensor 'model.layers.1.mlp.experts.2.up_proj.weight' differs"),
            std::string::npos)
      << all[0].faults[0];
  EXPECT_TRUE(all[1].faults.empty());
}

TEST_F(Verify, AFolderWithoutManifestIsHeldAgainstItsConfig) {
  core::sys::remove_tree(first_ + "/train_state");
  const auto v = formats::verify(first_, false);
  ASSERT_EQ(v.size(), 1u);
  EXPECT_EQ(v[0].kind, Kind::model);
  EXPECT_FALSE(v[0].has_checksums);
  EXPECT_TRUE(v[0].faults.empty());
  std::string config = core::read_file(first_ + "/config.json", 10000);
  config.replace(config.find("\"vocab_size\": 11"), 16, "\"vocab_size\": 12");
  put_file(first_ + "/config.json", config);
  ASSERT_EQ(faults(first_).size(), 1u);
  EXPECT_NE(faults(first_)[0].find("lm_head.weight [11, 8] instead of [12, 8]"), std::string::npos) << faults(first_)[0];
}

TEST_F(Verify, ValuesThatAreNoNumbersAreFoundWhenAskedFor) {
  model_.weights.of(model_.list.parameters[3]).row<float>(0)[1] = std::numeric_limits<float>::quiet_NaN();
  model_.weights.of(model_.list.parameters[3]).row<float>(0)[2] = -std::numeric_limits<float>::infinity();
  write_checkpoint(folder_ / "nan");
  EXPECT_TRUE(faults(folder_ / "nan").empty());
  const auto found = faults(folder_ / "nan", true);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find(fmt::format("tensor '{}' holds 2 values", model_.list.parameters[3].name)), std::string::npos) << found[0];
}

TEST_F(Verify, FilesOfTensorsAndTokens) {
  EXPECT_TRUE(faults(first_ + "/model.safetensors", true).empty());
  put_file(folder_ / "bad.safetensors", "1234567");
  EXPECT_EQ(faults(folder_ / "bad.safetensors").size(), 1u);
  TokenFileWriter w(folder_ / "tokens", core::DType::u16);
  w.add_document(std::vector<std::int32_t>{1, 2, 3});
  w.commit();
  for (const char* name : {"tokens", "tokens.bin", "tokens.idx"}) EXPECT_TRUE(faults(folder_ / name).empty());
  flip_bit(folder_ / "tokens.idx", 36);
  EXPECT_EQ(faults(folder_ / "tokens").size(), 1u);
  expect_error(Exit::io, {"nothing to verify"}, [&] { faults(folder_ / "absent"); });
  expect_error(Exit::io, {"no checkpoint and no model"}, [&] { faults(folder_.path()); });
}

}  // namespace
}  // namespace finback::formats
