// finback init: a model folder with freshly initialised weights.
#include "cli/command.h"
#include "core/log.h"
#include "core/machine.h"
#include "formats/hf_folder.h"

#include <memory>

namespace finback::cli {
namespace {

struct Options {
  std::string config, out, dtype = "bf16", tokenizer;
  std::uint64_t seed = 1;
};

void init(const Options& o) {
  model::ModelConfig config = model::read_config(o.config);
  config.torch_dtype = o.dtype == "bf16" ? "bfloat16" : "float32";
  const model::ParameterList list = model::list_parameters(config);
  core::Arena count = core::Arena::counting();
  model::take_slabs(count, list, core::DType::f32);
  core::require_memory(count.high_water(), o.config);
  core::Arena memory("weights", count.high_water());
  const model::SlabBuffers weights = model::take_slabs(memory, list, core::DType::f32);
  core::Team team(core::this_machine().cores);
  model::initialise(config, list, o.seed, team, weights);
  formats::save_model(o.out, config, list, weights,
                      {.dtype = o.dtype == "bf16" ? core::DType::bf16 : core::DType::f32, .tokenizer = o.tokenizer});
  core::inform("{}: {} parameters in {}, seed {}", o.out, list.total(), o.dtype, o.seed);
}

}  // namespace

void add_init(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("init", "Write a model folder with freshly initialised weights");
  c->add_option("--config", o->config, "config.json of the model, or a folder that holds one")->required();
  c->add_option("--seed", o->seed, "The weights are a function of this and the parameters' names")->capture_default_str();
  c->add_option("--dtype", o->dtype, "Type of the weights")->check(CLI::IsMember({"fp32", "bf16"}))->capture_default_str();
  c->add_option("--tokenizer", o->tokenizer, "Folder or tokenizer.json to copy into the model's folder");
  c->add_option("--out", o->out, "Folder to write")->required();
  c->footer("Example:\n  finback init --config configs/models/tiny.json --seed 1 --dtype bf16 --out runs/fresh");
  c->callback([o] { init(*o); });
}

}  // namespace finback::cli
