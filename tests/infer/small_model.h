// A folder with a small model of random weights, MoE and dense layers, for the tests of this room.
#pragma once

#include "formats/hf_folder.h"
#include "infer/loaded_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace finback::infer::test {

constexpr std::int64_t kVocabulary = 101;

class SmallModel {
 public:
  // torch_dtype: bfloat16 or float32.
  SmallModel(const std::string& name, const std::string& torch_dtype, core::Team& team, std::int64_t q_lora_rank = 24)
      : folder_(fmt::format("{}/infer_{}_{}_{}", testing::TempDir(), name, torch_dtype, ::getpid())) {
    model::ModelConfig c = model::read_config(FINBACK_SOURCE_DIR "/configs/models/tiny.json");
    c.num_hidden_layers = 3;
    c.hidden_size = 64;
    c.intermediate_size = 96;
    c.moe_intermediate_size = 32;
    c.num_attention_heads = 2;
    c.q_lora_rank = q_lora_rank;
    c.kv_lora_rank = 40;
    c.qk_nope_head_dim = 16;
    c.qk_rope_head_dim = 8;
    c.v_head_dim = 24;
    c.n_routed_experts = 8;
    c.num_experts_per_tok = 2;
    c.vocab_size = kVocabulary;
    c.torch_dtype = torch_dtype;
    c.initializer_range = 0.15;
    const model::ParameterList list = model::list_parameters(c);
    core::Arena arena("weights", 16 << 20);
    const model::SlabBuffers weights = model::take_slabs(arena, list, core::DType::f32);
    model::initialise(c, list, 1, team, weights);
    formats::save_model(folder_, c, list, weights, {.dtype = torch_dtype == "bfloat16" ? core::DType::bf16 : core::DType::f32});
  }
  ~SmallModel() { std::filesystem::remove_all(folder_); }
  SmallModel(const SmallModel&) = delete;
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
};

}  // namespace finback::infer::test
