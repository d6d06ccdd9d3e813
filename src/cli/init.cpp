// finback init: a model folder with freshly initialised weights.
#include "convert/init.h"
#include "cli/command.h"
#include "convert/shard_writer.h"
#include "core/log.h"
#include "core/machine.h"

#include <algorithm>
#include <memory>

namespace finback::cli {
namespace {

struct Options {
  std::string config, out, dtype = "bf16", tokenizer;
  std::uint64_t seed = 1;
};

void init(const Options& o) {
  const model::ModelConfig config = model::read_config(o.config);
  core::Team team(std::min(core::this_machine().cores, convert::kMaxThreads));
  convert::initialise_folder(o.out, config, {.seed = o.seed, .target = convert::target_of(o.dtype), .tokenizer = o.tokenizer}, team);
  core::inform("{}: {} parameters in {}, seed {}", o.out, model::list_parameters(config).total(), o.dtype, o.seed);
}

}  // namespace

void add_init(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("init", "Write a model folder with freshly initialised weights");
  c->add_option("--config", o->config, "config.json of the model, or a folder that holds one")->required();
  c->add_option("--seed", o->seed, "The weights are a function of this and the parameters' names")->capture_default_str();
  c->add_option("--dtype", o->dtype, "Type of the weights")->check(CLI::IsMember({"fp32", "bf16", "fp8"}))->capture_default_str();
  c->add_option("--tokenizer", o->tokenizer, "Folder or tokenizer.json to copy into the model's folder");
  c->add_option("--out", o->out, "Folder to write")->required();
  c->footer("Example:\n  finback init --config configs/models/tiny.json --seed 1 --dtype bf16 --out runs/fresh");
  c->callback([o] { init(*o); });
}

}  // namespace finback::cli
