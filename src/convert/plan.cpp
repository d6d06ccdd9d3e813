#include "convert/plan.h"

#include "core/error.h"
#include "core/json.h"
#include "formats/fp8.h"

#include <algorithm>

namespace finback::convert {
namespace {

namespace json = boost::json;
using core::DType;
using formats::TensorInfo;

struct Piece {
  std::size_t weight;
  bool scales;
  TensorInfo tensor;
  std::int64_t width;  // bytes of an element; 0 of a tensor that is not ours to know
};

std::vector<Piece> pieces_of(const Weight& w, std::size_t index) {
  const std::string stored = w.verbatim.empty() ? std::string(formats::safetensors_name(w.to)) : w.verbatim;
  const auto type = formats::dtype_of(stored);
  std::vector<Piece> pieces = {{index, false, {.name = w.name, .dtype = stored, .shape = w.shape}, type ? core::size_of(*type) : 0}};
  if (w.has_scales())
    pieces.push_back({index, true, {.name = formats::scale_name(w.name), .dtype = "F32", .shape = formats::scale_shape(w.shape)}, 4});
  return pieces;
}

// The parts of a shard from where its tensors begin, in the order of their bytes.
std::vector<Part> parts_of(const std::vector<std::pair<std::size_t, bool>>& owners, const std::vector<TensorInfo>& tensors) {
  std::vector<Part> parts;
  std::unordered_map<std::size_t, std::size_t> by_weight;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto [it, fresh] = by_weight.emplace(owners[i].first, parts.size());
    if (fresh) parts.push_back({.weight = owners[i].first});
    (owners[i].second ? parts[it->second].scales : parts[it->second].data) = tensors[i].begin;
  }
  // Large ones as the tensors' bytes follow one another, whatever the scales, which lie before.
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.data.value_or(0) < b.data.value_or(0); });
  return parts;
}

Shard make_shard(std::vector<Piece> pieces) {
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.width > b.width; });
  std::vector<std::pair<std::size_t, bool>> owners;
  std::vector<TensorInfo> tensors;
  for (Piece& p : pieces) {
    owners.emplace_back(p.weight, p.scales);
    tensors.push_back(std::move(p.tensor));
  }
  Shard shard;
  shard.head = formats::make_head(std::move(tensors));
  shard.parts = parts_of(owners, shard.head.tensors);
  return shard;
}

// A tensor that config.json does not ask for came out of FP8, and goes back.
void convert_too(Weight& w) {
  const auto type = formats::dtype_of(w.verbatim);
  if (type != DType::f32 && type != DType::bf16) return;
  w.from = *type;
  w.verbatim.clear();
  set_shape(w, w.shape);
}

std::string index_of(const std::vector<Shard>& shards) {
  json::object weight_map;
  std::uint64_t total = 0;
  for (const Shard& s : shards)
    for (const TensorInfo& t : s.head.tensors) {
      weight_map[t.name] = s.name;
      total += t.bytes();
    }
  return core::pretty_json(json::object{{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}});
}

}  // namespace

std::map<std::string, Plan::Sum> Plan::sums() const {
  std::map<std::string, Sum> sums;
  for (const Shard& s : shards)
    for (const TensorInfo& t : s.head.tensors) {
      ++sums[t.dtype].tensors;
      sums[t.dtype].bytes += t.bytes();
    }
  return sums;
}

std::uint64_t Plan::bytes() const {
  std::uint64_t bytes = index.size();
  for (const Shard& s : shards) bytes += s.head.file_bytes;
  return bytes;
}

Plan make_plan(std::vector<Weight> weights, std::uint64_t max_shard_bytes) {
  std::vector<std::vector<Piece>> groups(1);
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    std::vector<Piece> pieces = pieces_of(weights[i], i);
    const std::uint64_t more = weights[i].stored_bytes();
    if (!groups.back().empty() && bytes + more > max_shard_bytes) {
      groups.emplace_back();
      bytes = 0;
    }
    bytes += more;
    std::move(pieces.begin(), pieces.end(), std::back_inserter(groups.back()));
  }
  Plan plan{.weights = std::move(weights), .shards = {}, .index = {}};
  for (std::vector<Piece>& pieces : groups) {
    plan.shards.push_back(make_shard(std::move(pieces)));
    plan.shards.back().name =
        groups.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:06}.safetensors", plan.shards.size(), groups.size());
  }
  if (groups.size() > 1) plan.index = index_of(plan.shards);
  return plan;
}

std::optional<Plan> plan_like(std::vector<Weight> weights, std::vector<Shard> shards, std::string index) {
  std::unordered_map<std::string, std::size_t> by_name;
  for (std::size_t i = 0; i < weights.size(); ++i) by_name.emplace(weights[i].name, i);
  std::vector<int> data(weights.size()), scales(weights.size());  // how often each was found
  for (Shard& s : shards) {
    std::vector<std::pair<std::size_t, bool>> owners;
    for (const TensorInfo& t : s.head.tensors) {
      bool is_scale = false;
      auto it = by_name.find(t.name);
      if (it == by_name.end() && t.name.ends_with(formats::kScaleSuffix)) {
        is_scale = true;
        it = by_name.find(t.name.substr(0, t.name.size() - formats::kScaleSuffix.size()));
      }
      if (it == by_name.end()) return std::nullopt;
      Weight& w = weights[it->second];
      owners.emplace_back(it->second, is_scale);
      if (is_scale) {
        if (t.dtype != "F32" || t.shape != formats::scale_shape(w.shape)) return std::nullopt;
        ++scales[it->second];
        continue;
      }
      ++data[it->second];
      if (t.shape != w.shape || (t.dtype == "F8_E4M3" && t.shape.size() != 2)) return std::nullopt;
      const auto type = formats::dtype_of(t.dtype);
      if (!w.verbatim.empty() && t.dtype == "F8_E4M3") convert_too(w);
      if (!w.verbatim.empty()) {
        if (t.dtype != w.verbatim) return std::nullopt;
      } else if (type == DType::f32 || type == DType::bf16 || type == DType::e4m3) {
        w.to = *type;
      } else {
        return std::nullopt;
      }
    }
    s.parts = parts_of(owners, s.head.tensors);
  }
  for (std::size_t i = 0; i < weights.size(); ++i)
    if (data[i] != 1 || scales[i] != (weights[i].has_scales() ? 1 : 0)) return std::nullopt;
  return Plan{std::move(weights), std::move(shards), std::move(index)};
}

}  // namespace finback::convert
