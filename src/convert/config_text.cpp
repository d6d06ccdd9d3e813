#include "convert/config_text.h"

#include "core/error.h"
#include "core/json.h"
#include "formats/fp8.h"

namespace finback::convert {
namespace {

namespace json = boost::json;

json::object with_types(const json::object& config, const json::value& torch_dtype, const json::value* quantization) {
  const std::string_view dtype_key = config.contains("dtype") && !config.contains("torch_dtype") ? "dtype" : "torch_dtype";
  json::object out;
  for (const auto& [key, value] : config)
    if (key == dtype_key) out[key] = torch_dtype;
    else if (key != "quantization_config") out[key] = value;
    else if (quantization) out[key] = *quantization;
  if (!out.contains(dtype_key)) out[dtype_key] = torch_dtype;
  if (quantization && !out.contains("quantization_config")) out["quantization_config"] = *quantization;
  return out;
}

}  // namespace

json::object config_for(const json::object& config, Target target) {
  if (target != Target::fp8) return with_types(config, target == Target::fp32 ? "float32" : "bfloat16", nullptr);
  const json::value published = formats::quantization_config();
  const json::value* own = config.if_contains("quantization_config");
  return with_types(config, "bfloat16", own && own->is_object() ? own : &published);
}

std::string config_text(const json::object& config, Target target, const Record* record) {
  if (target != Target::fp8 || !record) return core::pretty_json(config_for(config, target));
  const json::value was = core::parse_json(record->config(), "config.json of the record");
  const json::object* original = was.if_object();
  const json::value* quantization = original ? original->if_contains("quantization_config") : nullptr;
  if (!quantization) return core::pretty_json(config_for(config, target));
  const std::string now = core::pretty_json(config);
  for (const Target made : {Target::bf16, Target::fp32})
    if (core::pretty_json(config_for(*original, made)) == now) return record->config();
  return core::pretty_json(with_types(config, "bfloat16", quantization));
}

}  // namespace finback::convert
