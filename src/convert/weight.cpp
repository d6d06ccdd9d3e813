#include "convert/weight.h"

#include "core/error.h"
#include "formats/fp8.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <set>

namespace finback::convert {
namespace {

namespace json = boost::json;
using core::DType;
using core::Error;
using core::Exit;
using formats::ModelFolder;

constexpr const char* kRemedy = "correct config.json, or download or convert the folder again";

DType stored_type(const model::Parameter& p, Target target) {
  if (p.keep_f32 || target == Target::fp32) return DType::f32;
  return target == Target::fp8 && p.fp8 ? DType::e4m3 : DType::bf16;
}

bool is_weight_type(std::optional<DType> d) { return d == DType::f32 || d == DType::bf16 || d == DType::f16; }

// What quantization_config says of this folder: true for FP8 in 128 x 128 blocks, false where there is none.
bool declares_fp8(const json::object& config, const std::string& where) {
  const json::value* v = config.if_contains("quantization_config");
  if (!v || v->is_null()) return false;
  const auto refuse = [&](const std::string& what) -> Error {
    return {Exit::usage, "quantization_config: " + what, where, "give a folder in FP8 with blocks of 128 x 128, BF16 or FP32"};
  };
  if (!v->is_object()) throw refuse("not an object");
  const json::object& q = v->get_object();
  const auto expect = [&](std::string_view key, const json::value& only) {
    if (const json::value* have = q.if_contains(key); have && *have != only)
      throw refuse(fmt::format("{} is {}, finback reads {}", key, json::serialize(*have), json::serialize(only)));
  };
  if (!q.if_contains("quant_method")) throw refuse("quant_method is missing");
  expect("quant_method", "fp8");
  expect("fmt", "e4m3");
  expect("weight_block_size", json::array{128, 128});
  return true;
}

// A type that is declared must be held. Folders may hold further types beside the declared one: F32 gate biases, say.
void check_declared(const ModelFolder& folder, const model::ModelConfig& config, const model::ParameterList& list,
                    const json::object& config_json) {
  const std::string where = folder.path() + "/config.json";
  const bool fp8 = declares_fp8(config_json, where);
  const json::object* q = fp8 ? &config_json.at("quantization_config").get_object() : nullptr;
  const bool exceptions = q && (q->contains("modules_to_not_convert") || q->contains("ignored_layers"));
  const std::string_view declared = config.torch_dtype == "bfloat16" ? "BF16" : config.torch_dtype == "float16" ? "F16" : "F32";
  const formats::TensorInfo* other = nullptr;
  bool held = false;
  for (const model::Parameter& p : list.parameters) {
    const formats::TensorInfo& t = *folder.find(p.name).info;
    if (t.dtype == "F8_E4M3" && !fp8)
      throw Error(Exit::bad_input, fmt::format("tensor '{}' is F8_E4M3, and config.json has no quantization_config", p.name), where,
                  kRemedy);
    if (t.dtype != "F8_E4M3" && p.fp8 && fp8 && !exceptions)
      throw Error(Exit::bad_input, fmt::format("tensor '{}' is {}, and quantization_config declares FP8", p.name, t.dtype), where, kRemedy);
    if (t.dtype != "F8_E4M3" && folder.find(formats::scale_name(p.name)))
      throw Error(Exit::bad_input,
                  fmt::format("tensor '{}' has a scale, '{}', and is {}, not F8_E4M3", p.name, formats::scale_name(p.name), t.dtype), where,
                  kRemedy);
    if (p.keep_f32 || t.dtype == "F8_E4M3") continue;
    if (t.dtype == declared) held = true;
    else if (!other) other = &t;
  }
  if (!held && other && (config_json.contains("torch_dtype") || config_json.contains("dtype")))
    throw Error(Exit::bad_input,
                fmt::format("torch_dtype is {}, and no weight holds it: tensor '{}' is {}", config.torch_dtype, other->name, other->dtype),
                where, kRemedy);
}

}  // namespace

Target target_of(std::string_view name) {
  FB_CHECK(name == "fp32" || name == "bf16" || name == "fp8", "{}", name);
  return name == "fp32" ? Target::fp32 : name == "bf16" ? Target::bf16 : Target::fp8;
}

std::string_view name_of(Target target) { return target == Target::fp32 ? "fp32" : target == Target::bf16 ? "bf16" : "fp8"; }

void set_shape(Weight& w, const std::vector<std::int64_t>& shape) {
  w.shape = shape;
  w.rows = 1;
  w.cols = shape.empty() ? 1 : shape.back();
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) w.rows *= shape[i];
}

std::uint64_t Weight::stored_bytes() const {
  const std::int64_t scales = has_scales() ? kernels::tiles_of(rows) * kernels::tiles_of(cols) : 0;
  return static_cast<std::uint64_t>(rows * cols * core::size_of(to) + scales * core::size_of(DType::f32));
}

std::vector<Weight> weights_of(const ModelFolder& folder, const model::ModelConfig& config, const model::ParameterList& list,
                               const json::object& config_json, Target target) {
  const std::vector<std::string> unknown = folder.check(list);
  check_declared(folder, config, list, config_json);
  std::vector<Weight> weights;
  const auto add = [&](const formats::TensorInfo& t, DType to) {
    weights.push_back({.name = t.name, .from = *formats::dtype_of(t.dtype), .to = to});
    set_shape(weights.back(), t.shape);
  };
  std::unordered_map<std::string_view, const model::Parameter*> by_name;
  for (const model::Parameter& p : list.parameters) {
    add(*folder.find(p.name).info, stored_type(p, target));
    by_name.emplace(p.name, &p);
  }
  for (const auto& d : list.duplicates) {
    const auto t = folder.find(d.name);
    if (!t) continue;
    if (!is_weight_type(formats::dtype_of(t.info->dtype)))
      throw Error(Exit::bad_input, fmt::format("tensor '{}' is {}, not F32, BF16 or F16", d.name, t.info->dtype), t.file->path(), kRemedy);
    add(*t.info, stored_type(*by_name.at(d.of), target));
  }
  std::set<std::string> with_scales;
  for (const std::string& name : unknown) {
    const auto t = folder.find(name);
    const std::string scales = formats::scale_name(name);
    if (t.info->dtype != "F8_E4M3" || !folder.find(scales)) continue;
    folder.check_scales(t);
    add(*t.info, target == Target::fp32 ? DType::f32 : target == Target::bf16 ? DType::bf16 : DType::e4m3);
    with_scales.insert({name, scales});
  }
  for (const std::string& name : unknown) {
    if (with_scales.contains(name)) continue;
    const formats::TensorInfo& t = *folder.find(name).info;
    weights.push_back({.name = name,
                       .shape = t.shape,
                       .cols = static_cast<std::int64_t>(t.bytes()),
                       .from = DType::u8,
                       .to = DType::u8,
                       .verbatim = t.dtype});
  }
  return weights;
}

std::vector<Weight> weights_of(const model::ParameterList& list, Target target) {
  std::vector<Weight> weights;
  std::unordered_map<std::string_view, const model::Parameter*> by_name;
  const auto add = [&](const std::string& name, const model::Parameter& p) {
    weights.push_back({.name = name, .to = stored_type(p, target)});
    set_shape(weights.back(), p.shape);
  };
  for (const model::Parameter& p : list.parameters) {
    add(p.name, p);
    by_name.emplace(p.name, &p);
  }
  for (const auto& d : list.duplicates) add(d.name, *by_name.at(d.of));
  return weights;
}

// ---- sources

void FolderSource::read(const Weight& w, const Block& b, void* out) const {
  const auto t = folder_.find(w.name);
  const auto size = static_cast<std::uint64_t>(core::size_of(w.from));
  const auto at = [&](std::int64_t row) { return static_cast<std::uint64_t>(row * w.cols + b.col) * size; };
  if (b.cols == w.cols) return t.file->read(*t.info, out, at(b.row), static_cast<std::uint64_t>(b.rows * b.cols) * size);
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(b.cols) * size;
  for (std::int64_t r = 0; r < b.rows; ++r)
    t.file->read(*t.info, static_cast<std::byte*>(out) + static_cast<std::uint64_t>(r) * row_bytes, at(b.row + r), row_bytes);
}

void FolderSource::read_scales(const Weight& w, std::int64_t first_row, std::int64_t rows, float* out) const {
  folder_.read_scales(folder_.find(w.name), first_row, rows, out);
}

InitialSource::InitialSource(const model::ModelConfig& config, const model::ParameterList& list, std::uint64_t seed)
    : config_(config), seed_(seed) {
  for (const model::Parameter& p : list.parameters) parameters_.emplace(p.name, &p);
  for (const auto& d : list.duplicates) parameters_.emplace(d.name, parameters_.at(d.of));
}

void InitialSource::read(const Weight& w, const Block& b, void* out) const {
  const model::Parameter& p = *parameters_.at(w.name);
  auto* to = static_cast<float*>(out);
  if (b.cols == w.cols) return model::initial_values(config_, p, seed_, b.row * w.cols, core::mat(to, DType::f32, 1, b.rows * b.cols));
  for (std::int64_t r = 0; r < b.rows; ++r)
    model::initial_values(config_, p, seed_, (b.row + r) * w.cols + b.col, core::mat(to + r * b.cols, DType::f32, 1, b.cols));
}

void InitialSource::read_scales(const Weight& w, std::int64_t, std::int64_t, float*) const { FB_CHECK(false, "{}", w.name); }

}  // namespace finback::convert
