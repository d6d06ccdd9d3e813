#include "formats/inspect.h"

#include "core/error.h"
#include "formats/convert.h"
#include "formats/fp8.h"
#include "formats/megatron.h"

#include <algorithm>
#include <filesystem>
#include <set>

namespace finback::formats {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Error;
using core::Exit;

// "{0-3,5}" for a set of numbers, the number itself if it is one.
std::string range_text(const std::set<std::int64_t>& numbers) {
  if (numbers.size() == 1) return fmt::format("{}", *numbers.begin());
  std::string text;
  for (auto it = numbers.begin(); it != numbers.end();) {
    const std::int64_t first = *it;
    std::int64_t last = first;
    while (++it != numbers.end() && *it == last + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", first);
    if (last > first) text += fmt::format("-{}", last);
  }
  return "{" + text + "}";
}

// The parts of a dotted name; numbers among them are taken out into `numbers`, an empty part stays in their place.
std::vector<std::string> split_name(std::string_view name, std::vector<std::int64_t>& numbers) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    const bool number =
        !part.empty() && part.size() < 10 && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (number) numbers.push_back(std::stoll(std::string(part)));
    parts.emplace_back(number ? std::string() : std::string(part));
    begin = end + 1;
  }
  return parts;
}

std::int64_t count_non_finite_in(const SafetensorsFile& file, const TensorInfo& t, DType dtype) {
  constexpr std::uint64_t kChunk = 1 << 20;
  std::vector<std::byte> values(std::min(kChunk, t.bytes()));
  std::int64_t bad = 0;
  for (std::uint64_t at = 0; at < t.bytes(); at += kChunk) {
    const std::uint64_t bytes = std::min(kChunk, t.bytes() - at);
    file.read(t, values.data(), at, bytes);
    bad += count_non_finite(dtype, values.data(), static_cast<std::int64_t>(bytes) / core::size_of(dtype));
  }
  return bad;
}

// The faults of the values of one file, a tensor each. The scales of FP8 weights must be above zero too.
void check_values_of(const SafetensorsFile& file, std::vector<std::string>& faults) {
  constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16, DType::e4m3, DType::e5m2};
  for (const TensorInfo& t : file.tensors()) {
    const auto dtype = dtype_of(t.dtype);
    if (!dtype || std::find(std::begin(kFloating), std::end(kFloating), *dtype) == std::end(kFloating)) continue;
    if (*dtype == DType::f32 && t.shape.size() == 2 && t.name.ends_with(kScaleSuffix)) {
      std::vector<float> scales(t.bytes() / sizeof(float));
      file.read(t, scales.data());
      try {
        check_scale_values(scales.data(), 0, t.shape[0], t.shape[1], t.name, file.path());
      } catch (const Error& e) {
        faults.emplace_back(e.what());
      }
    } else if (const std::int64_t bad = count_non_finite_in(file, t, *dtype); bad > 0) {
      faults.push_back(fmt::format("{}: tensor '{}' holds {} values that are NaN or infinite", file.path(), t.name, bad));
    }
  }
}

void verify_model(Verified& v, bool check_values) {
  const ModelFolder folder(v.path);
  for (const auto& file : folder.files()) {
    if (!v.has_checksums) {
      ++v.files;
      v.bytes += file->size();
    }
    if (check_values) check_values_of(*file, v.faults);
  }
  folder.warn_of_unknown(folder.check(model::list_parameters(model::read_config(v.path))));
}

// What throws in `body` becomes a fault of `v`: a damaged file must not hide the state of the others.
template <class Body>
Verified verified(const std::string& path, Kind kind, Body&& body) {
  Verified v{.path = path, .kind = kind};
  try {
    body(v);
  } catch (const Error& e) {
    v.faults.emplace_back(e.what());
  }
  return v;
}

Verified verify_checkpoint(const std::string& path, bool check_values) {
  return verified(path, Kind::checkpoint, [&](Verified& v) {
    const Manifest manifest = Manifest::read(fmt::format("{}/{}", path, kManifestPath));
    v.has_checksums = true;
    for (const FileSum& f : manifest.files()) {
      ++v.files;
      v.bytes += f.bytes;
    }
    v.faults = manifest.verify(path);
    if (v.faults.empty()) verify_model(v, check_values);
  });
}

}  // namespace

ParameterCounts count_parameters(const model::ModelConfig& config, const model::ParameterList& list) {
  ParameterCounts counts;
  for (const model::Slab& slab : list.slabs) {
    if (slab.layer >= config.num_hidden_layers) {
      counts.mtp += slab.size();
      continue;
    }
    counts.total += slab.size();
    counts.active += slab.role == model::Role::expert ? slab.size() / slab.groups * config.num_experts_per_tok : slab.size();
    if (slab.role == model::Role::embedding) counts.active_embedding += slab.size();
  }
  return counts;
}

std::vector<TensorGroup> group_tensors(const std::vector<const TensorInfo*>& tensors) {
  struct Group {
    std::vector<std::string> parts;
    std::vector<std::set<std::int64_t>> numbers;
    TensorGroup group;
  };
  std::vector<Group> groups;
  std::unordered_map<std::string, std::size_t> by_key;
  for (const TensorInfo* t : tensors) {
    std::vector<std::int64_t> numbers;
    auto parts = split_name(t->name, numbers);
    const std::string shape = t->shape_text();
    const auto [it, fresh] = by_key.emplace(fmt::format("{}|{}|{}", fmt::join(parts, "."), t->dtype, shape), groups.size());
    if (fresh) groups.push_back({std::move(parts), std::vector<std::set<std::int64_t>>(numbers.size()), {"", t->dtype, shape}});
    Group& g = groups[it->second];
    for (std::size_t i = 0; i < numbers.size(); ++i) g.numbers[i].insert(numbers[i]);
    ++g.group.tensors;
    g.group.bytes += t->bytes();
  }
  std::vector<TensorGroup> out;
  for (Group& g : groups) {
    std::size_t next = 0;
    for (std::string& part : g.parts)
      if (part.empty() && next < g.numbers.size()) part = range_text(g.numbers[next++]);
    g.group.name = fmt::format("{}", fmt::join(g.parts, "."));
    out.push_back(std::move(g.group));
  }
  return out;
}

std::string_view name_of(Kind kind) {
  switch (kind) {
    case Kind::checkpoint:
      return "checkpoint";
    case Kind::model:
      return "model folder";
    case Kind::safetensors:
      return "safetensors file";
    case Kind::tokens:
      return "token files";
  }
  return "?";
}

std::vector<Verified> verify(const std::string& path, bool check_values) {
  if (path.ends_with(".safetensors"))
    return {verified(path, Kind::safetensors, [&](Verified& v) {
      const SafetensorsFile file(path);
      v.files = 1;
      v.bytes = file.size();
      if (check_values) check_values_of(file, v.faults);
    })};
  if (path.ends_with(".bin") || path.ends_with(".idx") || core::exists(path + ".idx"))
    return {verified(path, Kind::tokens, [&](Verified& v) {
      const TokenFile file(path);
      v.files = 2;
      v.bytes = core::file_size(file.path());
    })};
  if (!fs::is_directory(path))
    throw Error(Exit::io, "nothing to verify", path, "give a model folder, a checkpoint, a run's folder or a file of tensors or tokens");
  if (core::exists(fmt::format("{}/{}", path, kManifestPath))) return {verify_checkpoint(path, check_values)};
  const bool run = fs::is_directory(path + "/checkpoints");  // which has a config.json too
  if (!run && core::exists(path + "/config.json"))
    return {verified(path, Kind::model, [&](Verified& v) { verify_model(v, check_values); })};

  // A run, or the folder of its checkpoints.
  const std::string folder = run ? path + "/checkpoints" : path;
  std::set<std::string> checkpoints;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory() && !entry.is_symlink() && core::exists(fmt::format("{}/{}", entry.path().string(), kManifestPath)) &&
        entry.path().extension() != ".tmp")
      checkpoints.insert(entry.path().string());
  if (checkpoints.empty()) throw Error(Exit::io, "no checkpoint and no model", path, "give a model folder, a checkpoint or a run's folder");
  std::vector<Verified> all;
  for (const std::string& c : checkpoints) all.push_back(verify_checkpoint(c, check_values));
  return all;
}

}  // namespace finback::formats
