// finback inspect: what a model, a checkpoint or a file of tensors or tokens holds.
#include "formats/inspect.h"
#include "cli/command.h"
#include "core/file.h"
#include "core/json.h"
#include "formats/axis.h"
#include "formats/megatron.h"

#include <boost/json/array.hpp>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

namespace finback::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using core::size_text;
using formats::short_number;

// What was found; each part is there or not.
struct Found {
  std::optional<model::ModelConfig> config;
  std::optional<formats::ModelFolder> folder;
  std::optional<formats::SafetensorsFile> file;
  std::optional<formats::TokenFile> tokens;

  std::vector<const formats::TensorInfo*> tensors() const {
    std::vector<const formats::TensorInfo*> all;
    const auto take = [&](const formats::SafetensorsFile& f) {
      for (const auto& t : f.tensors()) all.push_back(&t);
    };
    if (file) take(*file);
    if (folder)
      for (const auto& f : folder->files()) take(*f);
    return all;
  }
};

Found look(const std::string& path) {
  Found found;
  if (fs::is_directory(path)) {
    found.config = model::read_config(path);
    if (core::exists(path + "/model.safetensors") || core::exists(path + "/model.safetensors.index.json")) found.folder.emplace(path);
  } else if (path.ends_with(".json")) {
    found.config = model::read_config(path);
  } else if (path.ends_with(".bin") || path.ends_with(".idx") || core::exists(path + ".idx")) {
    found.tokens.emplace(path);
  } else {
    found.file.emplace(path);
  }
  return found;
}

json::object to_json(const Found& found) {
  json::object o;
  if (found.config) {
    const auto counts = formats::count_parameters(*found.config, model::list_parameters(*found.config));
    o["config"] = model::to_json(*found.config);
    o["parameters"] = {
        {"total", counts.total}, {"active", counts.active}, {"active_embedding", counts.active_embedding}, {"mtp", counts.mtp}};
  }
  if (found.tokens)
    o["tokens"] = {{"tokens", found.tokens->tokens()},
                   {"documents", found.tokens->documents()},
                   {"sequences", found.tokens->sequences()},
                   {"dtype", core::name_of(found.tokens->dtype())}};
  if (found.folder || found.file) {
    std::uint64_t bytes = 0;
    json::array tensors;
    for (const auto* t : found.tensors()) {
      bytes += t->bytes();
      tensors.push_back(
          {{"name", t->name}, {"dtype", t->dtype}, {"shape", json::array(t->shape.begin(), t->shape.end())}, {"bytes", t->bytes()}});
    }
    o["files"] = found.folder ? found.folder->files().size() : 1;
    o["tensor_bytes"] = bytes;
    o["tensors"] = std::move(tensors);
  }
  return o;
}

std::string describe(const model::ModelConfig& c) {
  std::string text =
      fmt::format("{}, {} layers of width {}, {} heads", c.model_type, c.num_hidden_layers, c.hidden_size, c.num_attention_heads);
  if (c.n_routed_experts > 0)
    text += fmt::format(", {} dense; {} experts of {}, {} active, {} shared", c.first_k_dense_replace, c.n_routed_experts,
                        c.moe_intermediate_size, c.num_experts_per_tok, c.n_shared_experts);
  return text + fmt::format("; vocabulary {}, context {}", c.vocab_size, c.max_position_embeddings);
}

void print_text(const Found& found, bool all) {
  if (found.config) {
    const auto counts = formats::count_parameters(*found.config, model::list_parameters(*found.config));
    fmt::print("model       {}\n", describe(*found.config));
    fmt::print("parameters  {} ({}), {} active per token", short_number(static_cast<double>(counts.total)), counts.total,
               short_number(static_cast<double>(counts.active)));
    if (counts.mtp > 0)
      fmt::print("; {} MTP module{}: {} more", found.config->num_nextn_predict_layers,
                 found.config->num_nextn_predict_layers == 1 ? "" : "s", short_number(static_cast<double>(counts.mtp)));
    fmt::print("\n");
  }
  if (found.tokens)
    fmt::print("tokens      {} in {} documents, {} sequences, {}\n", found.tokens->tokens(), found.tokens->documents(),
               found.tokens->sequences(), core::name_of(found.tokens->dtype()));
  if (!found.folder && !found.file) return;

  const auto tensors = found.tensors();
  std::vector<formats::TensorGroup> lines;
  if (all)
    for (const auto* t : tensors) lines.push_back({t->name, t->dtype, t->shape_text(), 1, t->bytes()});
  else lines = formats::group_tensors(tensors);
  std::uint64_t bytes = 0;
  std::size_t name = 0, shape = 0;
  for (const auto& l : lines) {
    bytes += l.bytes;
    name = std::max(name, l.name.size());
    shape = std::max(shape, l.shape.size());
  }
  const std::size_t files = found.folder ? found.folder->files().size() : 1;
  fmt::print("weights     {} tensors in {} file{}, {}\n\n", tensors.size(), files, files == 1 ? "" : "s", size_text(bytes));
  for (const auto& l : lines)
    fmt::print("{:<{}}  {:<8} {:<{}}  {:>10}{}\n", l.name, name, l.dtype, l.shape, shape, size_text(l.bytes),
               l.tensors > 1 ? fmt::format("  × {}", l.tensors) : "");
}

}  // namespace

void add_inspect(CLI::App& app) {
  struct Options {
    std::string path;
    bool all = false, json = false;
  };
  auto* command = app.add_subcommand("inspect", "What a model, a checkpoint or a file of tensors or tokens holds");
  const auto o = std::make_shared<Options>();
  command->add_option("path", o->path, "a model folder, a checkpoint, a config.json, a .safetensors or token file")->required();
  command->add_flag("--all", o->all, "a line for every tensor, not one for those that differ in numbers alone");
  command->add_flag("--json", o->json, "one JSON object");
  command->footer("Example:\n  finback inspect configs/models/tiny.json");
  command->callback([o] {
    const Found found = look(o->path);
    if (o->json) fmt::print("{}", core::pretty_json(to_json(found)));
    else print_text(found, o->all);
  });
}

}  // namespace finback::cli
