#include "model/run.h"

#include <map>

namespace finback::model {

ModelSlabs find_slabs(const ModelConfig& config, const ParameterList& list) {
  std::map<std::string, int, std::less<>> by_name;
  for (std::size_t i = 0; i < list.slabs.size(); ++i) by_name[list.slabs[i].name] = static_cast<int>(i);
  const auto find = [&](const std::string& name) {
    const auto it = by_name.find(name);
    return it == by_name.end() ? -1 : it->second;
  };

  // Experts' slabs are called after the first expert that is here. gate_up stands before down.
  const auto find_experts = [&](std::int64_t layer, int which) {
    for (std::size_t i = 0; i < list.slabs.size(); ++i)
      if (list.slabs[i].role == Role::expert && list.slabs[i].layer == layer && which-- == 0) return static_cast<int>(i);
    return -1;
  };

  ModelSlabs out;
  out.embedding = find("model.embed_tokens.weight");
  out.norm = find("model.norm.weight");
  out.head = find("lm_head.weight");
  for (std::int64_t l = 0; l < config.blocks(); ++l) {
    const std::string layer = fmt::format("model.layers.{}.", l), attention = layer + "self_attn.", mlp = layer + "mlp.";
    const std::string ffn = config.is_moe_layer(l) ? mlp + "shared_experts." : mlp;
    BlockSlabs b;
    b.input_norm = find(layer + "input_layernorm.weight");
    b.qkv_a = find(attention + (config.q_lora_rank > 0 ? "q_a_proj.weight" : "q_proj.weight"));
    b.q_a_norm = find(attention + "q_a_layernorm.weight");
    b.q_b = find(attention + "q_b_proj.weight");
    b.kv_a_norm = find(attention + "kv_a_layernorm.weight");
    b.kv_b = find(attention + "kv_b_proj.weight");
    b.o = find(attention + "o_proj.weight");
    b.post_norm = find(layer + "post_attention_layernorm.weight");
    b.gate = find(mlp + "gate.weight");
    b.gate_bias = find(mlp + "gate.e_score_correction_bias");
    b.expert_gate_up = find_experts(l, 0);
    b.expert_down = find_experts(l, 1);
    b.gate_up = find(ffn + "gate_proj.weight");
    b.down = find(ffn + "down_proj.weight");
    b.enorm = find(layer + "enorm.weight");
    b.hnorm = find(layer + "hnorm.weight");
    b.eh_proj = find(layer + "eh_proj.weight");
    b.head_norm = find(layer + "shared_head.norm.weight");
    out.blocks.push_back(b);
  }
  return out;
}

}  // namespace finback::model
