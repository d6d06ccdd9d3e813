#include "convert/record.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "formats/fp8.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <filesystem>

namespace finback::convert {
namespace {

namespace json = boost::json;
using core::Error;
using core::Exit;

constexpr std::string_view kConfig = "config.json", kIndex = "model.safetensors.index.json", kShards = "shards";
constexpr std::uint64_t kMaxIndex = 256 << 20;

// The scales of FP8 weights, in the order of their bytes.
std::vector<formats::ModelFolder::Tensor> scales_of(const formats::ModelFolder& folder) {
  std::vector<formats::ModelFolder::Tensor> scales;
  for (const auto& file : folder.files())
    for (const formats::TensorInfo& t : file->tensors())
      if (t.dtype == "F8_E4M3")
        if (const auto s = folder.find(formats::scale_name(t.name)); s && s.info->dtype == "F32") scales.push_back(s);
  return scales;
}

}  // namespace

Record::Record(const std::string& path) : file_(path) {
  const auto refuse = [&](std::string_view what) -> Error {
    return {Exit::bad_input, what, path, "remove the file; the weights are then quantised anew"};
  };
  const auto text = [&](std::string_view key) {
    const auto it = file_.metadata().find(std::string(key));
    return it == file_.metadata().end() ? std::string() : it->second;
  };
  config_ = text(kConfig);
  index_ = text(kIndex);
  const json::value shards = core::parse_json(text(kShards), path + " shards", {.max_bytes = kMaxIndex, .max_depth = 4});
  if (config_.empty() || !shards.is_array()) throw refuse("no record of an FP8 folder");
  for (const json::value& v : shards.get_array()) {
    const auto field = [&](std::string_view key) -> const json::value& {
      const json::value* f = v.is_object() ? v.get_object().if_contains(key) : nullptr;
      if (!f) throw refuse(fmt::format("a shard of the record has no {}", key));
      return *f;
    };
    const json::value &name = field("name"), &bytes = field("bytes"), &header = field("header");
    if (!name.is_string() || !bytes.is_int64() || bytes.get_int64() < 0 || !header.is_string())
      throw refuse("a shard of the record is malformed");
    const std::string file(name.get_string());
    const std::filesystem::path place(file);
    const bool climbs = std::find(place.begin(), place.end(), "..") != place.end();
    const bool twice = std::any_of(shards_.begin(), shards_.end(), [&](const Shard& other) { return other.name == file; });
    if (!file.ends_with(".safetensors") || place.is_absolute() || climbs || twice)
      throw refuse(fmt::format("shard '{}' of the record is no file of its own inside the folder", file));
    shards_.push_back({file, formats::parse_head(header.get_string(), static_cast<std::uint64_t>(bytes.get_int64()), path), {}});
  }
}

bool Record::read_scales(const Weight& w, std::int64_t first_row, std::int64_t rows, float* out) const {
  const std::string name = formats::scale_name(w.name);
  const formats::TensorInfo* t = file_.find(name);
  if (!t || t->dtype != "F32" || t->shape != formats::scale_shape(w.shape)) return false;
  const std::int64_t cols = t->shape[1];
  file_.read(*t, out, static_cast<std::uint64_t>(first_row * cols) * sizeof(float),
             static_cast<std::uint64_t>(rows * cols) * sizeof(float));
  formats::check_scale_values(out, first_row, rows, cols, name, file_.path());
  return true;
}

void write_record(const std::string& path, const formats::ModelFolder& folder, const std::string& config) {
  json::array shards;
  for (const auto& file : folder.files())
    shards.push_back({{"name", file->path().substr(folder.path().size() + 1)}, {"bytes", file->size()}, {"header", file->head_text()}});
  std::map<std::string, std::string> metadata = {{std::string(kConfig), config}, {std::string(kShards), json::serialize(shards)}};
  if (const std::string index = folder.path() + "/" + std::string(kIndex);
      folder.files().size() > 1 || !core::exists(folder.path() + "/model.safetensors"))
    metadata.emplace(kIndex, core::read_file(index, kMaxIndex));

  std::vector<formats::SafetensorsWriter::Entry> entries;
  const auto scales = scales_of(folder);
  for (const auto& s : scales) entries.push_back({s.info->name, core::DType::f32, s.info->shape});
  formats::SafetensorsWriter writer(path, std::move(entries), metadata);
  std::vector<std::byte> buffer;
  for (const auto& s : scales) {
    buffer.resize(s.info->bytes());
    s.file->read(*s.info, buffer.data());
    writer.write(buffer.data(), buffer.size());
  }
  writer.commit();
}

std::uint64_t record_bytes(const formats::ModelFolder& folder) {
  std::uint64_t bytes = 0;
  for (const auto& s : scales_of(folder)) bytes += s.info->bytes();
  return bytes;
}

}  // namespace finback::convert
