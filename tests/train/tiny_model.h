// A model that trains in milliseconds and has every part: a dense and a MoE layer, groups, a shared expert, one MTP module.
#pragma once

#include "model/config.h"

namespace finback::train {

inline model::ModelConfig tiny_model() {
  model::ModelConfig c;
  c.vocab_size = 64;
  c.hidden_size = 32;
  c.intermediate_size = 64;
  c.moe_intermediate_size = 16;
  c.num_hidden_layers = 2;
  c.num_nextn_predict_layers = 1;
  c.first_k_dense_replace = 1;
  c.num_attention_heads = 2;
  c.q_lora_rank = 16;
  c.kv_lora_rank = 16;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 8;
  c.n_routed_experts = 4;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 2;
  c.topk_group = 1;
  c.routed_scaling_factor = 2.5;
  return c;
}

// Smaller still: the model of the recorded checkpoints in tests/train/fixtures. Must not change.
inline model::ModelConfig fixture_model() {
  model::ModelConfig c = tiny_model();
  c.vocab_size = 8;
  c.hidden_size = 8;
  c.intermediate_size = 8;
  c.moe_intermediate_size = 4;
  c.q_lora_rank = c.kv_lora_rank = 4;
  c.qk_nope_head_dim = c.qk_rope_head_dim = c.v_head_dim = 4;
  return c;
}

}  // namespace finback::train
