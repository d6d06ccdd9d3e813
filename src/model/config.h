// The shape of a model: a Hugging Face config.json, with its names. It is the single description that training, inference,
// conversion and planning read; nothing else decides a shape.
#pragma once

#include "core/json.h"
#include "kernels/kernels.h"

#include <cstdint>
#include <optional>
#include <string>

namespace finback::model {

// rope_scaling of type "yarn" (FACTS: V3 technical report §4.3; names as in config.json).
struct YarnConfig {
  double factor = 1;
  std::int64_t original_max_position_embeddings = 4096;
  double beta_fast = 32, beta_slow = 1;
  double mscale = 1, mscale_all_dim = 0;
};

struct ModelConfig {
  std::string model_type = "deepseek_v3";  // deepseek_v3, deepseek_v2, kimi_k2 (V3's shape)
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t moe_intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_nextn_predict_layers = 0;  // MTP modules
  std::int64_t first_k_dense_replace = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t q_lora_rank = 0;  // 0: null in the file, a plain q_proj
  std::int64_t kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  std::int64_t n_routed_experts = 0, n_shared_experts = 0, num_experts_per_tok = 0;
  std::int64_t n_group = 1, topk_group = 1;
  std::string scoring_func = "sigmoid", topk_method = "noaux_tc";
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  double rms_norm_eps = 1e-6, rope_theta = 10000;
  std::optional<YarnConfig> rope_scaling;
  std::int64_t max_position_embeddings = 4096;
  std::int64_t bos_token_id = 0, eos_token_id = 1;
  double initializer_range = 0.02;
  // Which hidden state feeds an MTP module's hnorm: after the final norm (what the weight of evidence says of the released
  // model) or before it. Not in published configs; finback writes it as "mtp_hidden": "post_norm" | "pre_norm".
  bool mtp_hidden_post_norm = true;
  std::string torch_dtype = "bfloat16";

  bool is_moe_layer(std::int64_t layer) const { return n_routed_experts > 0 && layer >= first_k_dense_replace; }
  bool has_gate_bias() const { return topk_method == "noaux_tc"; }
  // All decoder blocks: the main layers, then one for each MTP module (layer index num_hidden_layers + k, as in checkpoints).
  std::int64_t blocks() const { return num_hidden_layers + num_nextn_predict_layers; }
  std::int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }

  kernels::AttentionShape attention_shape() const;  // scale = qk_head_dim^-0.5 · m², m from mscale_all_dim
  kernels::GateShape gate_shape() const;
};

// Throws Error(usage) naming the field and the allowed range; unknown model types are refused by name; keys that published
// folders carry and that change nothing are tolerated.
ModelConfig parse_config(const boost::json::value& json, const std::string& where);
ModelConfig read_config(const std::string& path);  // a config.json or a folder that holds one
boost::json::object to_json(const ModelConfig& config);

// Row p: cos, sin of each rope pair at position p [positions, R], YaRN applied; dtype f32 or f64.
void fill_rope_table(const ModelConfig& config, core::Mat cos_sin_PR);

}  // namespace finback::model
