// A small folder in the structure of the published FP8 one, made by rule: every finite code, half blocks at the edges, tensors scattered
// over shards so that a weight and its scales often lie in two, MTP's layer with its copies, and the files people keep beside.
#pragma once

#include "core/json.h"
#include "core/rng.h"
#include "formats/fp8.h"
#include "formats/hf_folder.h"
#include "numerics/bf16.h"
#include "tests/formats/temp_folder.h"

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace finback::testing {

constexpr std::string_view kShrunkenConfig = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "aux_loss_alpha": 0.001,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "bos_token_id": 0, "ep_size": 1, "eos_token_id": 1,
  "first_k_dense_replace": 1, "hidden_size": 200, "initializer_range": 0.02, "intermediate_size": 150, "kv_lora_rank": 40,
  "model_type": "deepseek_v3", "moe_intermediate_size": 64, "n_group": 2, "n_routed_experts": 4, "n_shared_experts": 1,
  "norm_topk_prob": true, "num_attention_heads": 3, "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_nextn_predict_layers": 1,
  "q_lora_rank": 130, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "quantization_config": {"activation_scheme": "dynamic",
  "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}, "rms_norm_eps": 1e-06, "rope_theta": 10000,
  "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 1, "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
  "transformers_version": "4.33.1", "v_head_dim": 32, "vocab_size": 300})";

struct StoredTensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};
using Tensors = std::map<std::string, StoredTensor>;

// n elements of 1 byte: codes; of 2: BF16; of 4: F32 above zero.
inline std::string random_bytes(std::uint32_t stream, std::int64_t n, int width) {
  const core::Rng rng(11, core::Stream::init, stream);
  std::string bytes(static_cast<std::size_t>(n * width), '\0');
  for (std::int64_t i = 0; i < n; ++i) {
    const double x = rng.normal(static_cast<std::uint64_t>(i));
    char* at = bytes.data() + i * width;
    if (width == 1) {
      auto code = static_cast<std::uint8_t>(static_cast<std::int64_t>(x * 1e6) & 0xff);
      if ((code & 0x7f) == 0x7f) code ^= 1;  // NaN
      std::memcpy(at, &code, 1);
    } else if (width == 2) {
      const numerics::bf16 v(0.05 * x);
      std::memcpy(at, &v, 2);
    } else {
      const auto v = static_cast<float>(1e-4 * (0.1 + x * x));
      std::memcpy(at, &v, 4);
    }
  }
  return bytes;
}

// The tensors of the published structure for a list of parameters.
inline Tensors fp8_tensors(const model::ParameterList& list) {
  Tensors tensors;
  std::uint32_t stream = 0;
  for (const model::Parameter& p : list.parameters) {
    if (p.fp8) {
      tensors[p.name] = {"F8_E4M3", p.shape, random_bytes(++stream, p.size(), 1)};
      const auto shape = formats::scale_shape(p.shape);
      tensors[formats::scale_name(p.name)] = {"F32", shape, random_bytes(++stream, shape[0] * shape[1], 4)};
    } else {
      tensors[p.name] = {p.keep_f32 ? "F32" : "BF16", p.shape, random_bytes(++stream, p.size(), p.keep_f32 ? 4 : 2)};
    }
  }
  for (const auto& d : list.duplicates) tensors[d.name] = tensors.at(d.of);
  return tensors;
}

// Writes tensors into `shards` files, the i-th into file i mod shards, as another program may: headers padded to 8, no metadata.
inline void put_tensors(const std::string& folder, const Tensors& tensors, std::size_t shards) {
  boost::json::object weight_map;
  std::size_t total = 0;
  for (std::size_t s = 0; s < shards; ++s) {
    const std::string name = shards == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:06}.safetensors", s + 1, shards);
    boost::json::object header;
    std::string data;
    std::size_t i = 0;
    for (const auto& [tensor, t] : tensors) {
      if (i++ % shards != s) continue;
      weight_map[tensor] = name;
      header[tensor] = {{"dtype", t.dtype},
                        {"shape", boost::json::array(t.shape.begin(), t.shape.end())},
                        {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
      data += t.bytes;
    }
    std::string text = boost::json::serialize(header);
    text.append((8 - text.size() % 8) % 8, ' ');
    const std::uint64_t n = text.size();
    put_file(folder + "/" + name, std::string(reinterpret_cast<const char*>(&n), 8) + text + data);
    total += data.size();
  }
  if (shards > 1)
    put_file(folder + "/model.safetensors.index.json",
             boost::json::serialize(boost::json::object{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}));
}

inline Tensors read_tensors(const std::string& folder) {
  Tensors tensors;
  const formats::ModelFolder f(folder);
  for (const auto& file : f.files())
    for (const auto& t : file->tensors()) {
      StoredTensor& to = tensors[t.name] = {t.dtype, t.shape, std::string(t.bytes(), '\0')};
      file->read(t, to.bytes.data());
    }
  return tensors;
}

// Every file below a folder, by its path there.
inline std::map<std::string, std::string> read_folder(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files[entry.path().string().substr(folder.size() + 1)] = core::read_file(entry.path().string(), 1 << 30);
  return files;
}

struct Fp8Folder {
  explicit Fp8Folder(const std::string& at, std::size_t shards = 4) : path(at) {
    core::make_directories(path + "/figures");
    put_file(path + "/config.json", kShrunkenConfig);
    put_file(path + "/tokenizer.json", "{\"model\": {}}");
    put_file(path + "/README.md", "# A model");
    put_file(path + "/figures/plot.svg", "<svg/>");
    put_file(path + "/.gitattributes", "hidden");
    put(shards);
  }
  void put(std::size_t shards) const { put_tensors(path, tensors, shards); }

  std::string path;
  model::ModelConfig config = model::parse_config(boost::json::parse(kShrunkenConfig), "shrunken");
  model::ParameterList list = model::list_parameters(config);
  Tensors tensors = fp8_tensors(list);
};

}  // namespace finback::testing
