#include "convert/init.h"

#include "convert/config_text.h"
#include "convert/shard_writer.h"
#include "core/clock.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"

#include <filesystem>

namespace finback::convert {
namespace {

namespace fs = std::filesystem;

void remove_model(const std::string& folder) {
  core::sys::remove_tree(folder + "/config.json");
  core::sys::remove_tree(folder + "/model.safetensors.index.json");
  std::vector<std::string> weights;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const std::string name = entry.path().filename().string(); name.starts_with("model") && name.ends_with(".safetensors"))
      weights.push_back(entry.path().string());
  for (const std::string& path : weights) core::sys::remove_tree(path);
}

}  // namespace

void initialise_folder(const std::string& folder, const model::ModelConfig& config, const InitOptions& options, core::Team& team) {
  const model::ParameterList list = model::list_parameters(config);
  const Plan plan = make_plan(weights_of(list, options.target), options.shard_bytes);
  const InitialSource source(config, list, options.seed);
  const auto companions = formats::companions(config, options.tokenizer);  // before anything is removed or written
  core::make_directories(folder);
  core::require_space(folder, plan.bytes());
  remove_model(folder);
  ShardWriter writer(plan, source, nullptr, team);
  core::Progress progress;
  const double start = core::seconds_now();
  for (std::size_t i = 0; i < plan.shards.size(); ++i)
    writer.write(folder + "/" + plan.shards[i].name, plan.shards[i],
                 {[&](double share, std::uint64_t) {
                    if (core::seconds_now() - start > 1)
                      progress.update(fmt::format("shard {} of {}, {:.0f} %", i + 1, plan.shards.size(), 100 * share));
                  },
                  [](const std::vector<WeightError>&) {}});
  progress.finish();
  for (const auto& [name, text] : companions) core::write_file_atomic(folder + "/" + name, text);
  if (!plan.index.empty()) core::write_file_atomic(folder + "/model.safetensors.index.json", plan.index);
  core::write_file_atomic(folder + "/config.json", core::pretty_json(config_for(model::to_json(config), options.target)));
}

}  // namespace finback::convert
