#include "formats/hf_folder.h"

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "formats/convert.h"
#include "formats/fp8.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <set>

namespace finback::formats {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using core::DType;
using core::Error;
using core::Exit;

constexpr std::uint64_t kChunk = 1 << 20;
constexpr const char* kRemedy = "download or convert the folder again";

std::string list_some(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 20;
  std::string text =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, names.size())), ", "));
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

}  // namespace

// Several kinds of fault, each with all its tensors, as one error.
class ModelFolder::Faults {
 public:
  std::vector<std::string>& operator[](const std::string& kind) {
    for (auto& [k, names] : kinds_)
      if (k == kind) return names;
    return kinds_.emplace_back(kind, std::vector<std::string>()).second;
  }
  bool none() const { return kinds_.empty(); }
  void throw_if_any(const std::string& where, Exit exit = Exit::bad_input, std::string_view remedy = kRemedy) const {
    std::string text;
    for (const auto& [kind, names] : kinds_)
      if (!names.empty()) text += fmt::format("{}{} ({}): {}", text.empty() ? "" : "; ", kind, names.size(), list_some(names));
    if (!text.empty()) throw Error(exit, text, where, remedy);
  }

 private:
  std::vector<std::pair<std::string, std::vector<std::string>>> kinds_;
};

namespace {

bool lies_in(const fs::path& file, const fs::path& folder) {
  const auto [end, _] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  return end == folder.end();
}

// Where a file that an index names may lie. Throws for a name or a symbolic link that leads out of the folder.
std::string path_in_folder(const std::string& folder, const std::string& name, const std::string& where) {
  const fs::path relative(name);
  const bool climbs = std::any_of(relative.begin(), relative.end(), [](const fs::path& part) { return part == ".."; });
  if (name.empty() || name.find('\0') != std::string::npos || relative.is_absolute() || climbs)
    throw Error(Exit::bad_input, fmt::format("shard '{}' is not a path inside the folder", name), where,
                "name files beside the index only");
  std::error_code ec;
  const fs::path root = fs::canonical(folder, ec), file = fs::canonical(fs::path(folder) / relative, ec);
  if (ec) return folder + "/" + name;  // absent: the caller says so
  const bool in_cache = root.parent_path().filename() == "snapshots" && lies_in(file, root.parent_path().parent_path() / "blobs");
  if (!lies_in(file, root) && !in_cache)
    throw Error(Exit::bad_input, fmt::format("shard '{}' is a link that leads to {}, outside the folder", name, file.string()), where,
                "put the file itself into the folder");
  return folder + "/" + name;
}

// Which fields of config.json may be wrong, when every weight is there and only sizes (the file's, the weights') differ.
std::string fields_to_correct(const std::string& folder, const std::set<std::pair<std::int64_t, std::int64_t>>& sizes) {
  std::vector<std::string> fields;
  for (const auto& [key, value] : model::to_json(model::read_config(folder)))
    for (const auto& [written, found] : sizes)
      if (value.is_int64() && value.get_int64() == written)
        fields.push_back(fmt::format("{} is {}, the weights have {}", std::string_view(key), written, found));
  return fields.empty() ? "use the config.json of these weights"
                        : fmt::format("correct config.json ({}), or use that of these weights", fmt::join(fields, "; "));
}

bool is_weight_dtype(DType d) { return d == DType::f32 || d == DType::bf16 || d == DType::f16; }

}  // namespace

ModelFolder::ModelFolder(const std::string& path) : path_(path) {
  if (!fs::is_directory(path)) throw Error(Exit::io, "not a folder", path, "give a folder that holds config.json and model.safetensors");
  const std::string single = path + "/model.safetensors";
  std::error_code ec;
  if (fs::exists(fs::symlink_status(single, ec))) {
    files_.push_back(std::make_unique<SafetensorsFile>(path_in_folder(path, "model.safetensors", path)));
    for (const TensorInfo& t : files_.front()->tensors()) tensors_.emplace(t.name, Tensor{files_.front().get(), &t});
  } else {
    open_shards();
  }
}

void ModelFolder::open_shards() {
  const std::string index_path = path_ + "/model.safetensors.index.json";
  if (!core::exists(index_path))
    throw Error(Exit::io, "no model.safetensors and no model.safetensors.index.json", path_, "give a folder that holds a model");
  const json::value index = core::read_json_file(index_path, {.max_bytes = 256 << 20, .max_depth = 16, .exit = Exit::bad_input});
  const auto* map = index.is_object() ? index.get_object().if_contains("weight_map") : nullptr;
  if (!map || !map->is_object()) throw Error(Exit::bad_input, "no weight_map", index_path, kRemedy);

  std::set<std::string> shards;
  for (const auto& [name, shard] : map->get_object()) {
    if (!shard.is_string())
      throw Error(Exit::bad_input, fmt::format("weight_map '{}' is not a file name", std::string_view(name)), index_path, kRemedy);
    shards.emplace(shard.get_string());
  }
  Faults faults;
  std::unordered_map<std::string_view, const SafetensorsFile*> by_shard;
  for (const std::string& shard : shards) {
    const std::string file = path_in_folder(path_, shard, index_path);
    if (!core::exists(file)) {
      faults["shards missing"].push_back(shard);
      continue;
    }
    files_.push_back(std::make_unique<SafetensorsFile>(file));
    by_shard.emplace(shard, files_.back().get());
  }
  faults.throw_if_any(index_path);

  for (const auto& file : files_)
    for (const TensorInfo& t : file->tensors()) {
      const auto [it, fresh] = tensors_.emplace(t.name, Tensor{file.get(), &t});
      if (!fresh)
        faults["tensors that two shards hold"].push_back(fmt::format(
            "{} ({} and {})", t.name, fs::path(it->second.file->path()).filename().string(), fs::path(file->path()).filename().string()));
    }
  for (const auto& [name, shard] : map->get_object()) {
    const Tensor t = find(name);
    if (!t || t.file != by_shard.at(std::string_view(shard.get_string())))
      faults["tensors that are not in the shard the index names"].push_back(
          fmt::format("{} ({})", std::string_view(name), std::string_view(shard.get_string())));
  }
  faults.throw_if_any(index_path);
}

ModelFolder::Tensor ModelFolder::find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? Tensor{} : it->second;
}

std::vector<std::string> ModelFolder::check(const model::ParameterList& list) const {
  constexpr const char* kMisshapen = "tensors of another shape than config.json says";
  Faults faults;
  std::vector<std::string> misshapen;
  std::set<std::pair<std::int64_t, std::int64_t>> sizes;  // config.json's, the weights'
  std::set<std::string, std::less<>> known;
  for (const model::Parameter& p : list.parameters) {
    known.insert(p.name);
    const Tensor t = find(p.name);
    if (!t) {
      faults["tensors missing"].push_back(p.name);
      continue;
    }
    const auto dtype = dtype_of(t.info->dtype);
    if (dtype == DType::e4m3) {
      check_scales_of(t, faults);
      known.insert(scale_name(p.name));
    } else if (!dtype || !is_weight_dtype(*dtype)) {
      faults["tensors of a dtype other than F32, BF16, F16 and F8_E4M3"].push_back(fmt::format("{} ({})", p.name, t.info->dtype));
    }
    if (t.info->shape == p.shape) continue;
    misshapen.push_back(fmt::format("{} {} instead of [{}]", p.name, t.info->shape_text(), fmt::join(p.shape, ", ")));
    for (std::size_t i = 0; i < p.shape.size() && t.info->shape.size() == p.shape.size(); ++i)
      if (p.shape[i] != t.info->shape[i]) sizes.emplace(p.shape[i], t.info->shape[i]);
  }
  const bool all_there = faults.none();
  if (!misshapen.empty()) faults[kMisshapen] = misshapen;
  if (all_there && !misshapen.empty()) faults.throw_if_any(path_, Exit::usage, fields_to_correct(path_, sizes));
  faults.throw_if_any(path_);

  for (const auto& d : list.duplicates) known.insert(d.name);
  std::vector<std::string> extra;
  for (const auto& file : files_)
    for (const TensorInfo& t : file->tensors())
      if (!known.contains(t.name)) extra.push_back(t.name);
  return extra;
}

void ModelFolder::warn_of_unknown(const std::vector<std::string>& names) const {
  if (!names.empty())
    core::warn("{}: tensors that config.json does not ask for are left out ({}): {}", path_, names.size(), list_some(names));
}

void ModelFolder::check_scales_of(Tensor weight, Faults& faults) const {
  const std::string name = scale_name(weight.info->name);
  const Tensor scales = find(name);
  if (!scales) return faults["scales of FP8 weights missing"].push_back(name);
  if (scales.info->dtype != "F32")
    faults["scales of FP8 weights of a dtype other than F32"].push_back(fmt::format("{} ({})", name, scales.info->dtype));
  if (const auto shape = scale_shape(weight.info->shape); shape.empty() || scales.info->shape != shape)
    faults["scales of FP8 weights of another shape than one for each 128 x 128 block"].push_back(
        fmt::format("{} {} instead of [{}]", name, scales.info->shape_text(), fmt::join(shape, ", ")));
}

void ModelFolder::check_scales(Tensor weight) const {
  Faults faults;
  check_scales_of(weight, faults);
  faults.throw_if_any(path_);
}

void ModelFolder::read_scales(Tensor weight, std::int64_t first_row, std::int64_t rows, float* out) const {
  const Tensor scales = find(scale_name(weight.info->name));
  FB_CHECK(scales && scales.info->shape == scale_shape(weight.info->shape), "{}", weight.info->name);
  const std::int64_t cols = scales.info->shape[1];
  scales.file->read(*scales.info, out, static_cast<std::uint64_t>(first_row * cols) * sizeof(float),
                    static_cast<std::uint64_t>(rows * cols) * sizeof(float));
  check_scale_values(out, first_row, rows, cols, scales.info->name, scales.file->path());
}

namespace {

// What one thread needs to load a tensor in pieces.
class Loader {
 public:
  void load(const ModelFolder& folder, const ModelFolder::Tensor& t, const core::Mat& to) {
    const DType from = *dtype_of(t.info->dtype);
    if (from == to.dtype) return t.file->read(*t.info, to.data);
    if (from == DType::e4m3) return dequantise(folder, t, to);
    const auto from_size = static_cast<std::uint64_t>(core::size_of(from));
    bytes_.resize(kChunk);
    for (std::uint64_t at = 0; at < t.info->bytes(); at += kChunk) {
      const std::uint64_t bytes = std::min<std::uint64_t>(kChunk, t.info->bytes() - at);
      t.file->read(*t.info, bytes_.data(), at, bytes);
      std::byte* begin = static_cast<std::byte*>(to.data) + at / from_size * static_cast<std::uint64_t>(core::size_of(to.dtype));
      convert_weights(from, bytes_.data(), to.dtype, begin, static_cast<std::int64_t>(bytes / from_size));
    }
  }

 private:
  void dequantise(const ModelFolder& folder, const ModelFolder::Tensor& t, const core::Mat& to) {
    const std::int64_t cols = to.cols, tile_cols = kernels::tiles_of(cols);
    const std::int64_t run = kernels::kTile * std::max<std::int64_t>(1, static_cast<std::int64_t>(kChunk) / (kernels::kTile * cols));
    for (std::int64_t row = 0; row < to.rows; row += run) {
      const std::int64_t rows = std::min(run, to.rows - row), tiles = kernels::tiles_of(rows);
      bytes_.resize(static_cast<std::size_t>(rows * cols));
      scales_.resize(static_cast<std::size_t>(tiles * tile_cols));
      t.file->read(*t.info, bytes_.data(), static_cast<std::uint64_t>(row * cols), static_cast<std::uint64_t>(rows * cols));
      folder.read_scales(t, row / kernels::kTile, tiles, scales_.data());
      const kernels::WeightView w{.data = bytes_.data(),
                                  .dtype = DType::e4m3,
                                  .rows = rows,
                                  .cols = cols,
                                  .scales = core::const_mat(scales_.data(), DType::f32, tiles, tile_cols)};
      context_.kernels.dequantize_blocks(context_, w, to.row_range(row, rows));
    }
  }

  core::Team team_{1};
  core::Arena scratch_{"loading", kernels::scratch_bytes(1)};
  kernels::Context context_{kernels::best(), team_, scratch_};
  std::vector<std::byte> bytes_;
  std::vector<float> scales_;
};

}  // namespace

void ModelFolder::load(const model::ParameterList& list, core::Team& team, const model::SlabBuffers& out) const {
  warn_of_unknown(check(list));
  std::vector<Loader> loaders(static_cast<std::size_t>(team.threads()));
  std::mutex mutex;
  std::exception_ptr failure;
  core::parallel_for(team, static_cast<std::int64_t>(list.parameters.size()), [&](std::int64_t task, int thread) {
    try {
      const model::Parameter& p = list.parameters[static_cast<std::size_t>(task)];
      const core::Mat to = out.of(p);
      FB_CHECK(to.contiguous() && to.size() == p.size(), "{}", p.name);
      loaders[static_cast<std::size_t>(thread)].load(*this, find(p.name), to);
    } catch (...) {  // an exception may not leave a task
      std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  if (const auto differing = differing_duplicates(list); !differing.empty())
    core::warn("{}: {} differ from the main model's, which finback uses in their place", path_, fmt::join(differing, ", "));
}

std::vector<std::string> ModelFolder::differing_duplicates(const model::ParameterList& list) const {
  std::vector<std::string> differing;
  std::vector<char> a(kChunk), b(kChunk);
  for (const auto& d : list.duplicates) {
    const Tensor copy = find(d.name), original = find(d.of);
    if (!copy || !original) continue;
    bool equal = copy.info->dtype == original.info->dtype && copy.info->shape == original.info->shape;
    for (std::uint64_t at = 0; equal && at < copy.info->bytes(); at += kChunk) {
      const std::uint64_t n = std::min(kChunk, copy.info->bytes() - at);
      copy.file->read(*copy.info, a.data(), at, n);
      original.file->read(*original.info, b.data(), at, n);
      equal = std::memcmp(a.data(), b.data(), n) == 0;
    }
    if (!equal) differing.push_back(d.name);
  }
  return differing;
}

// ---- writing

namespace {

struct Item {
  std::string name;
  const model::Parameter* parameter;
  DType dtype;
  bool scales = false;  // of the parameter's codes, not itself
  std::vector<std::int64_t> shape() const { return scales ? scale_shape(parameter->shape) : parameter->shape; }
  std::uint64_t bytes() const {
    std::int64_t n = core::size_of(dtype);
    for (const std::int64_t extent : shape()) n *= extent;
    return static_cast<std::uint64_t>(n);
  }
};

// A pass of a weight through its codes, a few rows of blocks at a time.
class Quantiser {
 public:
  explicit Quantiser(bool power_of_two_scales) : how_{DType::e4m3, power_of_two_scales} {}

  // Writes the codes, or their scales.
  void write(const core::ConstMat& from, bool scales, SafetensorsWriter& writer) {
    const std::int64_t cols = from.cols, tile_cols = kernels::tiles_of(cols);
    const std::int64_t run = kernels::kTile * std::max<std::int64_t>(1, static_cast<std::int64_t>(kChunk) / (kernels::kTile * cols));
    for (std::int64_t row = 0; row < from.rows; row += run) {
      const std::int64_t rows = std::min(run, from.rows - row), tiles = kernels::tiles_of(rows);
      codes_.resize(static_cast<std::size_t>(rows * cols));
      scales_.resize(static_cast<std::size_t>(tiles * tile_cols));
      const kernels::ScaledBuffer to{core::mat(codes_.data(), DType::e4m3, rows, cols),
                                     core::mat(scales_.data(), DType::f32, tiles, tile_cols)};
      context_.kernels.quantize_blocks(context_, from.row_range(row, rows), 1, {}, how_, to);
      const core::Mat& part = scales ? to.scales : to.codes;
      writer.write(part.data, static_cast<std::uint64_t>(part.bytes()));
    }
  }

 private:
  const kernels::Quantization how_;
  core::Team team_{1};
  core::Arena scratch_{"saving", kernels::scratch_bytes(1)};
  kernels::Context context_{kernels::best(), team_, scratch_};
  std::vector<std::byte> codes_;
  std::vector<float> scales_;
};

FileSum write_shard(const std::string& path, std::vector<Item> items, const model::SlabBuffers& weights, const SaveOptions& options) {
  // Wider types first, so that every element lies aligned.
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return core::size_of(a.dtype) > core::size_of(b.dtype); });
  std::vector<SafetensorsWriter::Entry> entries;
  for (const Item& item : items) entries.push_back({item.name, item.dtype, item.shape()});
  SafetensorsWriter writer(path, std::move(entries));
  std::vector<std::byte> buffer(kChunk);
  Quantiser quantiser(options.power_of_two_scales);
  for (const Item& item : items) {
    const core::Mat from = weights.of(*item.parameter);
    FB_CHECK(from.contiguous() && from.size() == item.parameter->size(), "{}", item.name);
    if (item.scales || item.dtype == DType::e4m3) {
      quantiser.write(from, item.scales, writer);
      continue;
    }
    const auto out_size = core::size_of(item.dtype), run = static_cast<std::int64_t>(kChunk) / out_size;
    for (std::int64_t i = 0; i < from.size(); i += run) {
      const std::int64_t n = std::min(run, from.size() - i);
      convert_weights(from.dtype, static_cast<const std::byte*>(from.data) + i * core::size_of(from.dtype), item.dtype, buffer.data(), n);
      writer.write(buffer.data(), static_cast<std::uint64_t>(n * out_size));
    }
  }
  return writer.commit();
}

std::vector<std::vector<Item>> split_into_shards(const model::ParameterList& list, const SaveOptions& options) {
  const bool fp8 = options.dtype == DType::e4m3;
  const DType plain = fp8 ? DType::bf16 : options.dtype;
  std::vector<Item> items;
  std::unordered_map<std::string_view, const model::Parameter*> by_name;
  for (const model::Parameter& p : list.parameters) {
    const bool codes = fp8 && p.fp8;
    items.push_back({p.name, &p, codes ? DType::e4m3 : p.keep_f32 ? DType::f32 : plain});
    if (codes) items.push_back({scale_name(p.name), &p, DType::f32, /*scales=*/true});
    by_name.emplace(p.name, &p);
  }
  for (const auto& d : list.duplicates) items.push_back({d.name, by_name.at(d.of), plain});

  std::vector<std::vector<Item>> shards(1);
  std::uint64_t bytes = 0;
  for (Item& item : items) {
    // Scales lie with their weight.
    if (!item.scales && !shards.back().empty() && bytes + item.bytes() > options.max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += item.bytes();
    shards.back().push_back(std::move(item));
  }
  return shards;
}

// Tokenizer files that folders of this family carry.
constexpr std::string_view kTokenizerFiles[] = {"tokenizer.json",
                                                "tokenizer_config.json",
                                                "special_tokens_map.json",
                                                "added_tokens.json",
                                                "tiktoken.model",
                                                "chat_template.jinja",
                                                "vocab.json",
                                                "merges.txt"};

}  // namespace

std::vector<std::pair<std::string, std::string>> companions(const model::ModelConfig& config, const std::string& tokenizer) {
  constexpr std::uint64_t kMaxTokenizer = 1 << 30;
  const json::object generation = {
      {"_from_model_config", true}, {"bos_token_id", config.bos_token_id}, {"eos_token_id", config.eos_token_id}};
  std::vector<std::pair<std::string, std::string>> files = {{"generation_config.json", core::pretty_json(generation)}};
  if (tokenizer.empty()) return files;
  if (!fs::is_directory(tokenizer)) {
    files.emplace_back(fs::path(tokenizer).filename().string(), core::read_file(tokenizer, kMaxTokenizer));
    return files;
  }
  for (const auto name : kTokenizerFiles)
    if (const std::string from = fmt::format("{}/{}", tokenizer, name); core::exists(from))
      files.emplace_back(name, core::read_file(from, kMaxTokenizer));
  return files;
}

std::vector<FileSum> save_model(const std::string& folder, const model::ModelConfig& config, const model::ParameterList& list,
                                const model::SlabBuffers& weights, const SaveOptions& options) {
  const bool fp8 = options.dtype == DType::e4m3;
  FB_CHECK(fp8 || options.dtype == DType::bf16 || options.dtype == DType::f32, "{}", core::name_of(options.dtype));
  core::make_directories(folder);
  Manifest written;
  const auto put = [&](const std::string& name, std::string_view text) {
    core::write_file_atomic(folder + "/" + name, text);
    written.add_file(folder, name);
  };
  json::object config_json = model::to_json(config);
  config_json["torch_dtype"] = options.dtype == DType::f32 ? "float32" : "bfloat16";
  if (fp8) config_json["quantization_config"] = quantization_config();
  put("config.json", core::pretty_json(config_json));
  for (const auto& [name, text] : companions(config, options.tokenizer)) put(name, text);

  const auto shards = split_into_shards(list, options);
  if (shards.size() == 1) {
    written.add(write_shard(folder + "/model.safetensors", shards.front(), weights, options));
    return written.files();
  }
  json::object weight_map;
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const Item& item : shards[i]) {
      weight_map[item.name] = name;
      total += item.bytes();
    }
    written.add(write_shard(folder + "/" + name, shards[i], weights, options));
  }
  put("model.safetensors.index.json", core::pretty_json(json::object{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}));
  return written.files();
}

}  // namespace finback::formats
