#include "model/config.h"

#include "core/file.h"

#include <boost/json/serialize.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numbers>

namespace finback::model {
namespace {

namespace json = boost::json;
using core::Error;
using core::Exit;

// Reads fields of one JSON object, each with its allowed range; every complaint names the file and the field.
class Fields {
 public:
  Fields(const json::object& object, std::string where) : object_(object), where_(std::move(where)) {}

  [[noreturn]] void refuse(std::string_view key, std::string_view what, std::string_view remedy) const {
    throw Error(Exit::usage, fmt::format("{} {}", key, what), where_, remedy);
  }

  const json::value* find(std::string_view key) const {
    const auto* v = object_.if_contains(key);
    return v && !v->is_null() ? v : nullptr;
  }

  void read(std::string_view key, std::int64_t min, std::int64_t max, bool required, std::int64_t& out) const {
    const auto* v = find(key);
    if (!v) {
      if (required) refuse(key, "is missing", fmt::format("add it, {} to {}", min, max));
      return;
    }
    if (!v->is_int64()) refuse(key, fmt::format("is {}", json::serialize(*v)), fmt::format("write an integer from {} to {}", min, max));
    out = v->get_int64();
    if (out < min || out > max) refuse(key, fmt::format("is {}", out), fmt::format("write an integer from {} to {}", min, max));
  }

  void read(std::string_view key, double min, double max, double& out) const {
    const auto* v = find(key);
    if (!v) return;
    if (!v->is_number()) refuse(key, fmt::format("is {}", json::serialize(*v)), fmt::format("write a number from {} to {}", min, max));
    out = v->to_number<double>();
    if (!(out >= min && out <= max)) refuse(key, fmt::format("is {}", out), fmt::format("write a number from {} to {}", min, max));
  }

  void read(std::string_view key, bool& out) const {
    const auto* v = find(key);
    if (!v) return;
    if (!v->is_bool()) refuse(key, fmt::format("is {}", json::serialize(*v)), "write true or false");
    out = v->get_bool();
  }

  void read(std::string_view key, std::initializer_list<std::string_view> allowed, std::string& out) const {
    const auto* v = find(key);
    if (!v) return;
    if (!v->is_string() || std::find(allowed.begin(), allowed.end(), std::string_view(v->get_string())) == allowed.end())
      refuse(key, fmt::format("is {}", json::serialize(*v)), fmt::format("finback knows {}", fmt::join(allowed, ", ")));
    out = std::string(v->get_string());
  }

  // For keys that published files carry and that finback can honour only at one value.
  void require(std::string_view key, const json::value& only) const {
    const auto* v = find(key);
    if (v && *v != only)
      refuse(key, fmt::format("is {}", json::serialize(*v)), fmt::format("finback supports {} alone", json::serialize(only)));
  }

 private:
  const json::object& object_;
  std::string where_;
};

constexpr std::int64_t kMaxWidth = 1 << 20;

void parse_rope(const json::value& value, const std::string& where, ModelConfig& c) {
  if (!value.is_object()) throw Error(Exit::usage, "not an object", where, "write null or an object of type yarn");
  const Fields f(value.get_object(), where);
  f.read("rope_theta", 1.0, 1e12, c.rope_theta);
  std::string type;
  f.read("type", {"yarn", "default"}, type);
  f.read("rope_type", {"yarn", "default"}, type);
  if (type.empty()) f.refuse("type", "is missing", "finback knows yarn and default");
  if (type == "default") return;
  YarnConfig y;
  f.read("factor", 1.0, 1e4, y.factor);
  f.read("original_max_position_embeddings", 1, 1 << 24, true, y.original_max_position_embeddings);
  f.read("beta_fast", 1e-3, 1e6, y.beta_fast);
  f.read("beta_slow", 1e-3, 1e6, y.beta_slow);
  f.read("mscale", 0.0, 100.0, y.mscale);
  f.read("mscale_all_dim", 0.0, 100.0, y.mscale_all_dim);
  c.rope_scaling = y;
}

void check_consistency(const ModelConfig& c, const Fields& f) {
  if (c.qk_rope_head_dim % 2 != 0) f.refuse("qk_rope_head_dim", fmt::format("is {}", c.qk_rope_head_dim), "write an even number");
  if (c.first_k_dense_replace > c.num_hidden_layers)
    f.refuse("first_k_dense_replace", fmt::format("is {}", c.first_k_dense_replace),
             fmt::format("write 0 to num_hidden_layers = {}", c.num_hidden_layers));
  if (c.n_routed_experts > 0) {
    if (c.num_experts_per_tok > c.n_routed_experts)
      f.refuse("num_experts_per_tok", fmt::format("is {}", c.num_experts_per_tok),
               fmt::format("write 1 to n_routed_experts = {}", c.n_routed_experts));
    if (c.n_routed_experts % c.n_group != 0)
      f.refuse("n_group", fmt::format("is {}", c.n_group), fmt::format("write a divisor of n_routed_experts = {}", c.n_routed_experts));
    if (c.topk_group > c.n_group)
      f.refuse("topk_group", fmt::format("is {}", c.topk_group), fmt::format("write 1 to n_group = {}", c.n_group));
    const auto per_group = c.n_routed_experts / c.n_group;
    if (c.topk_method == "noaux_tc" && c.n_group > 1 && per_group < 2)
      f.refuse("n_group", fmt::format("is {}", c.n_group),
               "noaux_tc ranks groups by their two best experts: write a group count that leaves two experts in each");
    if (c.num_experts_per_tok > c.topk_group * per_group)
      f.refuse("num_experts_per_tok", fmt::format("is {}", c.num_experts_per_tok),
               fmt::format("write at most the {} experts of topk_group = {} groups", c.topk_group * per_group, c.topk_group));
  }
  if (c.bos_token_id >= c.vocab_size)
    f.refuse("bos_token_id", fmt::format("is {}", c.bos_token_id), fmt::format("write less than vocab_size = {}", c.vocab_size));
  if (c.eos_token_id >= c.vocab_size)
    f.refuse("eos_token_id", fmt::format("is {}", c.eos_token_id), fmt::format("write less than vocab_size = {}", c.vocab_size));
}

// eos_token_id may be a list in published files; the first is the one that ends a document.
std::int64_t token_id(const Fields& f, std::string_view key, std::int64_t fallback) {
  const auto* v = f.find(key);
  if (v && v->is_array() && !v->get_array().empty()) v = &v->get_array().front();
  if (!v) return fallback;
  if (!v->is_int64() || v->get_int64() < 0) f.refuse(key, fmt::format("is {}", json::serialize(*v)), "write a token id");
  return v->get_int64();
}

}  // namespace

ModelConfig parse_config(const json::value& value, const std::string& where) {
  if (!value.is_object()) throw Error(Exit::usage, "the configuration is not a JSON object", where, "give a Hugging Face config.json");
  const Fields f(value.get_object(), where);
  ModelConfig c;
  if (!f.find("model_type")) f.refuse("model_type", "is missing", "finback knows deepseek_v3, deepseek_v2 and kimi_k2");
  f.read("model_type", {"deepseek_v3", "deepseek_v2", "kimi_k2"}, c.model_type);
  const bool v2 = c.model_type == "deepseek_v2";
  if (v2) c.scoring_func = "softmax", c.topk_method = "greedy", c.norm_topk_prob = false;

  f.read("vocab_size", 2, 1 << 22, true, c.vocab_size);
  f.read("hidden_size", 1, kMaxWidth, true, c.hidden_size);
  f.read("intermediate_size", 1, kMaxWidth, true, c.intermediate_size);
  f.read("num_hidden_layers", 1, 1024, true, c.num_hidden_layers);
  f.read("num_nextn_predict_layers", 0, 16, false, c.num_nextn_predict_layers);
  f.read("num_attention_heads", 1, 4096, true, c.num_attention_heads);
  f.read("q_lora_rank", 1, kMaxWidth, false, c.q_lora_rank);
  f.read("kv_lora_rank", 1, kMaxWidth, true, c.kv_lora_rank);
  f.read("qk_nope_head_dim", 1, 4096, true, c.qk_nope_head_dim);
  f.read("qk_rope_head_dim", 2, 4096, true, c.qk_rope_head_dim);
  f.read("v_head_dim", 1, 4096, true, c.v_head_dim);
  f.read("n_routed_experts", 1, 4096, false, c.n_routed_experts);
  const bool moe = c.n_routed_experts > 0;
  c.first_k_dense_replace = moe ? 0 : c.num_hidden_layers;
  f.read("first_k_dense_replace", 0, 1024, false, c.first_k_dense_replace);
  f.read("moe_intermediate_size", 1, kMaxWidth, moe, c.moe_intermediate_size);
  f.read("n_shared_experts", 0, 64, false, c.n_shared_experts);
  f.read("num_experts_per_tok", 1, 4096, moe, c.num_experts_per_tok);
  f.read("n_group", 1, 4096, false, c.n_group);
  f.read("topk_group", 1, 4096, false, c.topk_group);
  f.read("scoring_func", {"sigmoid", "softmax"}, c.scoring_func);
  f.read("topk_method", {"noaux_tc", "greedy", "group_limited_greedy"}, c.topk_method);
  f.read("norm_topk_prob", c.norm_topk_prob);
  f.read("routed_scaling_factor", 1e-6, 1e6, c.routed_scaling_factor);
  f.read("rms_norm_eps", 1e-12, 1.0, c.rms_norm_eps);
  f.read("rope_theta", 1.0, 1e12, c.rope_theta);
  f.read("max_position_embeddings", 1, 1 << 24, false, c.max_position_embeddings);
  f.read("initializer_range", 0.0, 10.0, c.initializer_range);
  for (const char* key : {"rope_scaling", "rope_parameters"})  // the second is what newer transformers write; it holds rope_theta too
    if (const auto* rope = f.find(key)) parse_rope(*rope, where + ": " + key, c);
  c.bos_token_id = token_id(f, "bos_token_id", c.bos_token_id);
  c.eos_token_id = token_id(f, "eos_token_id", c.eos_token_id);
  std::string mtp_hidden = "post_norm";
  f.read("mtp_hidden", {"post_norm", "pre_norm"}, mtp_hidden);
  c.mtp_hidden_post_norm = mtp_hidden == "post_norm";
  for (const char* key : {"torch_dtype", "dtype"}) f.read(key, {"bfloat16", "float32", "float16"}, c.torch_dtype);

  f.require("hidden_act", "silu");
  f.require("attention_bias", false);
  f.require("attention_dropout", 0.0);
  f.require("tie_word_embeddings", false);
  f.require("moe_layer_freq", 1);
  f.require("rope_interleave", true);
  f.require("num_key_value_heads", c.num_attention_heads);
  if (c.topk_method == "greedy") c.n_group = c.topk_group = 1;
  check_consistency(c, f);
  return c;
}

ModelConfig read_config(const std::string& path) {
  const std::string file = std::filesystem::is_directory(path) ? path + "/config.json" : path;
  core::JsonLimits limits;
  limits.max_bytes = 4 << 20;
  return parse_config(core::read_json_file(file, limits), file);
}

json::object to_json(const ModelConfig& c) {
  const bool v2 = c.model_type == "deepseek_v2";
  json::object o;
  o["architectures"] = json::array{v2 ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM"};
  o["model_type"] = c.model_type;
  o["attention_bias"] = false;
  o["attention_dropout"] = 0.0;
  o["bos_token_id"] = c.bos_token_id;
  o["eos_token_id"] = c.eos_token_id;
  o["first_k_dense_replace"] = c.first_k_dense_replace;
  o["hidden_act"] = "silu";
  o["hidden_size"] = c.hidden_size;
  o["initializer_range"] = c.initializer_range;
  o["intermediate_size"] = c.intermediate_size;
  o["kv_lora_rank"] = c.kv_lora_rank;
  o["max_position_embeddings"] = c.max_position_embeddings;
  if (c.moe_intermediate_size > 0) o["moe_intermediate_size"] = c.moe_intermediate_size;
  o["moe_layer_freq"] = 1;
  if (!c.mtp_hidden_post_norm) o["mtp_hidden"] = "pre_norm";
  o["n_group"] = c.n_group;
  if (c.n_routed_experts > 0) {
    o["n_routed_experts"] = c.n_routed_experts;
    o["num_experts_per_tok"] = c.num_experts_per_tok;
  } else {
    o["n_routed_experts"] = nullptr;
  }
  o["n_shared_experts"] = c.n_shared_experts;
  o["norm_topk_prob"] = c.norm_topk_prob;
  o["num_attention_heads"] = c.num_attention_heads;
  o["num_hidden_layers"] = c.num_hidden_layers;
  o["num_key_value_heads"] = c.num_attention_heads;
  o["num_nextn_predict_layers"] = c.num_nextn_predict_layers;
  if (c.q_lora_rank > 0) o["q_lora_rank"] = c.q_lora_rank;
  else o["q_lora_rank"] = nullptr;
  o["qk_nope_head_dim"] = c.qk_nope_head_dim;
  o["qk_rope_head_dim"] = c.qk_rope_head_dim;
  o["rms_norm_eps"] = c.rms_norm_eps;
  if (c.rope_scaling) {
    const YarnConfig& y = *c.rope_scaling;
    o["rope_scaling"] = {{"type", "yarn"},
                         {"factor", y.factor},
                         {"original_max_position_embeddings", y.original_max_position_embeddings},
                         {"beta_fast", y.beta_fast},
                         {"beta_slow", y.beta_slow},
                         {"mscale", y.mscale},
                         {"mscale_all_dim", y.mscale_all_dim}};
  } else {
    o["rope_scaling"] = nullptr;
  }
  o["rope_theta"] = c.rope_theta;
  o["routed_scaling_factor"] = c.routed_scaling_factor;
  o["scoring_func"] = c.scoring_func;
  o["tie_word_embeddings"] = false;
  o["topk_group"] = c.topk_group;
  o["topk_method"] = c.topk_method;
  o["torch_dtype"] = c.torch_dtype;
  o["use_cache"] = true;
  o["v_head_dim"] = c.v_head_dim;
  o["vocab_size"] = c.vocab_size;
  return o;
}

kernels::AttentionShape ModelConfig::attention_shape() const {
  double scale = 1 / std::sqrt(static_cast<double>(qk_head_dim()));
  // The softmax temperature of YaRN enters here, squared because it belongs to q and to k.
  if (rope_scaling && rope_scaling->mscale_all_dim > 0 && rope_scaling->factor > 1) {
    const double m = 0.1 * rope_scaling->mscale_all_dim * std::log(rope_scaling->factor) + 1;
    scale *= m * m;
  }
  return {num_attention_heads, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, scale};
}

kernels::GateShape ModelConfig::gate_shape() const {
  return {.experts = n_routed_experts,
          .chosen = num_experts_per_tok,
          .groups = n_group,
          .groups_chosen = topk_group,
          .scoring = scoring_func == "sigmoid" ? kernels::Scoring::sigmoid : kernels::Scoring::softmax,
          .group_score = topk_method == "noaux_tc" ? kernels::GroupScore::top2_sum : kernels::GroupScore::max,
          .normalise = norm_topk_prob,
          .scale = routed_scaling_factor};
}

namespace {

// Rotations per position of each rope pair. YaRN (Peng et al. 2023; V3 report §4.3) keeps the fast ones, divides the slow
// ones by `factor` and blends linearly between.
double pair_frequency(const ModelConfig& c, std::int64_t pair) {
  const auto dim = static_cast<double>(c.qk_rope_head_dim);
  const double f = std::pow(c.rope_theta, -2.0 * static_cast<double>(pair) / dim);
  if (!c.rope_scaling || c.rope_scaling->factor <= 1) return f;
  const YarnConfig& y = *c.rope_scaling;
  // The pair that turns `rotations` times within the original context.
  const auto correction = [&](double rotations) {
    return dim * std::log(static_cast<double>(y.original_max_position_embeddings) / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(c.rope_theta));
  };
  const double low = std::max(std::floor(correction(y.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(y.beta_slow)), dim - 1);
  if (high == low) high += 0.001;
  const double ramp = std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
  return f * (1 - ramp) + f / y.factor * ramp;
}

// cos and sin are multiplied by this: 1 when mscale = mscale_all_dim, as in every published folder of the family.
double rope_magnitude(const ModelConfig& c) {
  if (!c.rope_scaling || c.rope_scaling->factor <= 1) return 1;
  const auto m = [&](double mscale) { return 0.1 * mscale * std::log(c.rope_scaling->factor) + 1; };
  return m(c.rope_scaling->mscale) / m(c.rope_scaling->mscale_all_dim);
}

}  // namespace

void fill_rope_table(const ModelConfig& c, core::Mat table) {
  FB_CHECK(table.cols == c.qk_rope_head_dim, "{} columns", table.cols);
  const double magnitude = rope_magnitude(c);
  for (std::int64_t i = 0; i < c.qk_rope_head_dim / 2; ++i) {
    const double f = pair_frequency(c, i);
    for (std::int64_t p = 0; p < table.rows; ++p) {
      const double angle = static_cast<double>(p) * f;
      const double cos = std::cos(angle) * magnitude, sin = std::sin(angle) * magnitude;
      if (table.dtype == core::DType::f64) {
        table.row<double>(p)[2 * i] = cos;
        table.row<double>(p)[2 * i + 1] = sin;
      } else {
        table.row<float>(p)[2 * i] = static_cast<float>(cos);
        table.row<float>(p)[2 * i + 1] = static_cast<float>(sin);
      }
    }
  }
}

}  // namespace finback::model
