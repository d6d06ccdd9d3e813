#include "train/run_parts.h"

#include "comm/handshake.h"
#include "comm/world.h"
#include "core/json.h"
#include "core/machine.h"
#include "train/layout.h"

#include <xxhash.h>

#include <cstring>

namespace finback::train {

using core::Error;
using core::Exit;

namespace {

int ranks_of(const RunOptions& options) { return options.ranks ? options.ranks->size() : 1; }

// Of each rank; without train.threads they share the machine's cores.
int threads_of(const RunConfig& run, const RunOptions& options) {
  return run.train.threads > 0 ? static_cast<int>(run.train.threads) : std::max(1, core::this_machine().cores / ranks_of(options));
}

// Of synthetic tokens, which stand for no text.
text::Tokenizer of_bytes() {
  text::Vocabulary v;
  for (int b = 0; b < 256; ++b) v.tokens.emplace_back(1, static_cast<char>(b));
  return text::Tokenizer(std::move(v));
}

text::Tokenizer load_tokenizer(const RunConfig& run, const model::ModelConfig& config) {
  if (run.data.tokenizer.empty()) return of_bytes();
  text::Tokenizer tokenizer = text::Tokenizer::load(run.data.tokenizer);
  if (tokenizer.vocab_size() > config.vocab_size)
    throw Error(Exit::usage, fmt::format("the tokenizer has {} ids, vocab_size is {}", tokenizer.vocab_size(), config.vocab_size),
                run.model.config, "use the tokenizer that the model is made for");
  return tokenizer;
}

data::Stream open_data(const RunConfig& run, const model::ModelConfig& config, const text::Tokenizer& tokenizer) {
  data::StreamOptions o;
  o.seq_len = run.data.seq_len;
  o.vocab_size = config.vocab_size;
  o.seed = static_cast<std::uint64_t>(run.train.seed);
  o.eos_id = static_cast<std::int32_t>(config.eos_token_id);
  o.fim_rate = run.data.fim_rate;
  if (const auto fim = tokenizer.fim()) o.fim = {fim->begin, fim->hole, fim->end};
  o.token_split_rate = run.data.token_split_rate;
  if (o.token_split_rate > 0) o.splits = data::SplitTable(tokenizer.vocabulary().tokens);
  return {run.data.train, run.data.weights, std::move(o)};
}

// What the sums of a step depend on.
std::string sums_of(const RunConfig& run) {
  const auto& p = run.parallel;
  std::string layout = p.pp == 1 && p.dp == 1 ? "one process" : fmt::format("dp {}", p.dp);
  if (p.pp > 1) layout += fmt::format(", pp {} ({})", p.pp, p.schedule);
  if (p.ep > 1) layout += fmt::format(", ep {}", p.ep);
  return fmt::format("{}, micro_batch {}", layout, run.train.micro_batch);
}

Provenance provenance_of(const RunConfig& run, const RunOptions& options, data::Stream& stream) {
  Provenance p{options.build, std::string(kernels::best().name), sums_of(run), {}};
  std::int64_t tokens = 0;
  for (const data::Source& s : stream.sources()) tokens += s.file().tokens();
  p.data = {{"tokens", tokens}, {"fingerprint", stream.fingerprint()}};
  return p;
}

// auto: what the layers compute with.
core::DType weights_type(const RunConfig& run) {
  const std::string& name = run.checkpoint.dtype == "auto" ? run.train.precision : run.checkpoint.dtype;
  return name == "fp8" ? core::DType::e4m3 : name == "bf16" ? core::DType::bf16 : core::DType::f32;
}

std::unique_ptr<parallel::Member> join_ranks(const RunConfig& run, const RunOptions& options, const model::ModelConfig& config,
                                             const model::ParameterList& list) {
  require_layout(run, config);
  if (options.ranks) return join(run, config, list, *options.ranks);
  if (!options.as_layout) parallel::Mesh(layout_of(run)).require_world(1);
  return nullptr;
}

std::unique_ptr<RunLock> take_lock(const RunConfig& run, const RunOptions& options) {
  return options.ranks && options.ranks->rank() > 0 ? nullptr : std::make_unique<RunLock>(run.output.dir);
}

std::uint64_t hash_of(std::string_view text, std::uint64_t seed = 0) { return XXH3_64bits_withSeed(text.data(), text.size(), seed); }
std::uint64_t hash_of(const text::Tokenizer& tokenizer) {
  std::uint64_t hash = 0;
  for (const std::string& token : tokenizer.vocabulary().tokens) hash = hash_of(token, hash);
  return hash;
}

void compare_ranks(const RunParts& parts) {
  const Provenance& p = parts.content.provenance;
  const comm::Field fields[] = {comm::this_build(),
                                {"instruction-set path", p.isa},
                                {"run file", fmt::format("{:016x}", hash_of(to_toml(parts.run)))},
                                {"model", fmt::format("{:016x}", hash_of(core::pretty_json(model::to_json(parts.config))))},
                                {"tokenizer", fmt::format("{:016x}", hash_of(parts.tokenizer))},
                                {"training data", core::pretty_json(p.data)}};
  comm::handshake(*parts.ranks(), fields);
}

}  // namespace

std::int64_t snapshot_bytes(const RunConfig& run, const model::ParameterList& list) {
  return in_pages(Snapshot::bytes_needed(list, precision_of(run), moments_of(run), run.optimizer.ema_decay > 0));
}

MemoryByKind memory_of(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list, const RunOptions& options,
                       const parallel::Member* member) {
  MemoryByKind need = Trainer::memory_needed(run, config, list, threads_of(run, options), member);
  need.snapshot = snapshot_bytes(run, list);
  need.program = resident_bytes();
  return need;
}

void check_memory(const MemoryByKind& need, const RunConfig& run, const RunOptions& options) {
  const std::int64_t available = core::this_machine().available_bytes;
  const std::int64_t ranks = comm::under_launcher() ? 1 : ranks_of(options);  // in this process
  const std::int64_t total = need.snapshot + (need.total() - need.snapshot) * ranks;
  if (available > 0 && total > available)
    throw Error(Exit::usage,
                fmt::format("the run needs {:.2f} GiB of memory, {:.2f} GiB are available", static_cast<double>(total) / (1 << 30),
                            static_cast<double>(available) / (1 << 30)),
                run.model.config, "lower train.micro_batch or data.seq_len, or train a smaller model (--check shows the memory by kind)");
}

RunParts::RunParts(const RunConfig& r, const RunOptions& o)
    : run(r),
      options(o),
      config(model::read_config(run.model.config)),
      list(model::list_parameters(config)),
      member(join_ranks(run, options, config, list)),
      lock((check_memory(memory_of(run, config, list, options, member.get()), run, options), take_lock(run, options))),
      tokenizer(load_tokenizer(run, config)),
      stream(open_data(run, config, tokenizer)),
      memory(memory_of(run, config, list, options, member.get())),
      team(threads_of(run, options)),
      traced(kernels::best()),
      trainer(
          run, config, list, team, options.spans ? traced : kernels::best(),
          [this](std::int64_t begin, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
            stream.fill(begin, inputs, targets);
          },
          options.spans, member.get()),
      content{config,
              list,
              weights_type(run),
              run.data.tokenizer,
              to_toml(run),
              run.train.seed,
              provenance_of(run, options, stream),
              run.fp8.power_of_two_scales} {
  if (!run.data.valid.empty())
    evaluator = std::make_unique<Evaluator>(run.data.valid, run.eval.tokens, run.data.seq_len, run.train.micro_batch, config, tokenizer);
  if (!ranks()) return;
  team.set_poll(comm::Communicator::progress, options.ranks);
  compare_ranks(*this);
}

std::string RunParts::restore(const std::string& checkpoint) {
  const std::string before =
      read_checkpoint(checkpoint, content, {.allow_data_change = options.allow_data_change, .quiet = !first()}, trainer.state());
  trainer.state().refresh_weights(trainer.context());
  return before;
}

void give_order(RunParts& parts, Order::Kind kind, const std::string& path) {
  if (!parts.ranks()) return;
  Order order{.kind = kind, .counters = parts.trainer.state().counters};
  FB_CHECK(path.size() < sizeof order.path, "a path of {} bytes", path.size());
  std::memcpy(order.path, path.data(), path.size());
  parts.ranks()->broadcast(0, std::as_writable_bytes(std::span(&order, 1)));
}

Order take_order(RunParts& parts) {
  Order order;
  parts.ranks()->broadcast(0, std::as_writable_bytes(std::span(&order, 1)));
  return order;
}

}  // namespace finback::train
