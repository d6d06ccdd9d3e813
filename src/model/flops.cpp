#include "model/flops.h"

namespace finback::model {
namespace {

std::int64_t attention_parameters(const ModelConfig& m) {
  const std::int64_t query = m.num_attention_heads * m.qk_head_dim();
  const std::int64_t q = m.q_lora_rank > 0 ? (m.hidden_size + query) * m.q_lora_rank : m.hidden_size * query;
  const std::int64_t kv_a = m.hidden_size * (m.kv_lora_rank + m.qk_rope_head_dim);
  const std::int64_t kv_b = m.kv_lora_rank * m.num_attention_heads * (m.qk_nope_head_dim + m.v_head_dim);
  return q + kv_a + kv_b + m.num_attention_heads * m.v_head_dim * m.hidden_size;
}

std::int64_t block_parameters(const ModelConfig& m, std::int64_t layer) {
  constexpr std::int64_t kSwiGlu = 3;  // gate, up, down
  if (!m.is_moe_layer(layer)) return attention_parameters(m) + kSwiGlu * m.hidden_size * m.intermediate_size;
  const std::int64_t experts = m.num_experts_per_tok + m.n_shared_experts;
  return attention_parameters(m) + m.hidden_size * m.n_routed_experts + kSwiGlu * m.hidden_size * m.moe_intermediate_size * experts;
}

}  // namespace

std::int64_t active_matmul_parameters(const ModelConfig& m, bool with_mtp) {
  const std::int64_t head = m.hidden_size * m.vocab_size;
  std::int64_t n = head;
  for (std::int64_t l = 0; l < m.num_hidden_layers; ++l) n += block_parameters(m, l);
  if (!with_mtp) return n;
  for (std::int64_t l = m.num_hidden_layers; l < m.blocks(); ++l) n += 2 * m.hidden_size * m.hidden_size + block_parameters(m, l) + head;
  return n;
}

double model_flops_per_token(const ModelConfig& m, std::int64_t seq_len, bool with_mtp) {
  const auto blocks = static_cast<double>(with_mtp ? m.blocks() : m.num_hidden_layers);
  const auto width = static_cast<double>(m.num_attention_heads * (m.qk_head_dim() + m.v_head_dim));
  const double attention = blocks * 2 * width * static_cast<double>(seq_len) / 2;
  return 6 * static_cast<double>(active_matmul_parameters(m, with_mtp)) + 3 * attention;
}

}  // namespace finback::model
