// A small model with every part, whose sizes no vector, tile or block divides.
#pragma once

#include "model/config.h"

namespace finback::model {

inline ModelConfig odd_shape() {
  ModelConfig c;
  c.vocab_size = 131;
  c.hidden_size = 72;
  c.intermediate_size = 52;
  c.moe_intermediate_size = 20;
  c.num_hidden_layers = 3;
  c.num_nextn_predict_layers = 1;
  c.first_k_dense_replace = 1;
  c.num_attention_heads = 3;
  c.q_lora_rank = 26;
  c.kv_lora_rank = 18;
  c.qk_nope_head_dim = 12;
  c.qk_rope_head_dim = 6;
  c.v_head_dim = 10;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.initializer_range = 0.1;
  return c;
}

}  // namespace finback::model
