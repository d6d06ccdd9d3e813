// A model of a few thousand parameters with every kind of tensor: dense and MoE layers, gate bias, one MTP module.
#pragma once

#include "core/arena.h"
#include "core/team.h"
#include "model/params.h"

#include <boost/json/parse.hpp>

#include <memory>

namespace finback::testing {

inline model::ModelConfig small_config() {
  return model::parse_config(boost::json::parse(R"({
    "model_type": "deepseek_v3", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "moe_intermediate_size": 5,
    "num_hidden_layers": 2, "num_nextn_predict_layers": 1, "first_k_dense_replace": 1, "num_attention_heads": 2, "q_lora_rank": 6,
    "kv_lora_rank": 4, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2, "v_head_dim": 3, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1})"),
                             "small");
}

struct SmallModel {
  explicit SmallModel(core::DType dtype = core::DType::f32) {
    core::Arena count = core::Arena::counting();
    model::take_slabs(count, list, dtype);
    arena = std::make_unique<core::Arena>("small", count.high_water());
    weights = model::take_slabs(*arena, list, dtype);
  }
  void initialise(std::uint64_t seed) { model::initialise(config, list, seed, team, weights); }

  model::ModelConfig config = small_config();
  model::ParameterList list = model::list_parameters(config);
  core::Team team{2};
  std::unique_ptr<core::Arena> arena;
  model::SlabBuffers weights;
};

}  // namespace finback::testing
