// finback convert: a model folder in another type.
#include "cli/command.h"
#include "convert/conversion.h"
#include "convert/shard_writer.h"
#include "core/log.h"
#include "core/machine.h"

#include <algorithm>
#include <memory>

namespace finback::cli {
namespace {

struct Options {
  convert::Options conversion;
  std::string dtype;
  double shard_gb = static_cast<double>(convert::kShardBytes) * 1e-9;
  int threads = 0;
  bool dry_run = false;
};

void run(const Options& o) {
  convert::Options options = o.conversion;
  options.target = convert::target_of(o.dtype);
  options.shard_bytes = static_cast<std::uint64_t>(o.shard_gb * 1e9);
  convert::Conversion conversion(options);
  if (o.dry_run) {
    fmt::print("{}", conversion.describe());
    return;
  }
  core::Team team(std::min(o.threads > 0 ? o.threads : core::this_machine().cores, convert::kMaxThreads));
  core::inform("{}", conversion.run(team));
}

}  // namespace

void add_convert(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("convert", "Write a model folder in another type: FP32, BF16, or FP8 as DeepSeek-V3 is published");
  c->add_option("--in", o->conversion.in, "Model folder")->required();
  c->add_option("--out", o->conversion.out, "Folder to write; it must not be there")->required();
  c->add_option("--dtype", o->dtype, "Type of the weights")->required()->check(CLI::IsMember({"fp32", "bf16", "fp8"}));
  c->add_flag("--dry-run", o->dry_run, "Say what would be written, and stop");
  c->add_flag("--resume", o->conversion.resume, "Go on with a conversion that was stopped");
  c->add_option("--shard-size", o->shard_gb, "GB a shard, at most; a larger tensor gets a shard of its own")
      ->check(CLI::Range(1e-6, 1e6))
      ->capture_default_str();
  c->add_option("--threads", o->threads, "0: one a core")->check(CLI::Range(0, convert::kMaxThreads))->capture_default_str();
  c->footer("Example:\n  finback convert --in DeepSeek-V3 --out DeepSeek-V3-bf16 --dtype bf16");
  c->callback([o] { run(*o); });
}

}  // namespace finback::cli
