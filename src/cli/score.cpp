// finback score: what a model thinks of given tokens, as log-probabilities and, when asked, as the logits themselves.
#include "cli/command.h"
#include "core/file.h"
#include "core/machine.h"
#include "formats/safetensors.h"
#include "infer/loaded_model.h"
#include "infer/sampler.h"
#include "text/tokenizer.h"

#include <charconv>
#include <cmath>
#include <memory>

namespace finback::cli {
namespace {

struct Options {
  std::string model, ids, text, logits;
  int threads = 0;
  bool json = false;
};

std::vector<std::int32_t> parse_ids(const std::string& list, std::int64_t vocab_size) {
  std::vector<std::int32_t> ids;
  const char* p = list.data();
  const char* end = p + list.size();
  while (p < end) {
    std::int32_t id = -1;
    const auto [next, error] = std::from_chars(p, end, id);
    if (error != std::errc{} || id < 0 || id >= vocab_size || (next < end && *next != ','))
      throw core::Error(core::Exit::usage,
                        fmt::format("'{}' at character {} is no token id", std::string(p, std::find(p, end, ',')), p - list.data()),
                        "--ids", fmt::format("write ids from 0 to {} with commas between", vocab_size - 1));
    ids.push_back(id);
    p = next + 1;
  }
  return ids;
}

void score(const Options& o) {
  core::Team team(o.threads > 0 ? o.threads : core::this_machine().cores);
  const infer::LoadedModel model(o.model, team);
  const std::int64_t W = model.config().vocab_size;
  const std::vector<std::int32_t> ids = o.text.empty() ? parse_ids(o.ids, W) : text::Tokenizer::load(o.model).encode(o.text);
  if (ids.empty()) throw core::Error(core::Exit::usage, "there are no tokens", "score", "give --ids or --text");
  const auto T = static_cast<std::int64_t>(ids.size());
  if (T > model.config().max_position_embeddings)
    throw core::Error(core::Exit::usage, fmt::format("{} tokens", T), o.model,
                      fmt::format("give at most max_position_embeddings = {}", model.config().max_position_embeddings));

  core::require_memory(T * W * 4, "logits");
  core::Arena memory("logits", T * W * 4);
  const core::Mat logits = memory.take_mat(core::DType::f32, T, W);
  infer::score(model, team, ids, logits);

  if (!o.logits.empty()) {
    formats::SafetensorsWriter file(o.logits, {{"logits", core::DType::f32, {T, W}}});
    file.write(logits.data, static_cast<std::uint64_t>(logits.bytes()));
    file.commit();
  }
  double sum = 0;
  for (std::int64_t t = 0; t + 1 < T; ++t)
    sum += infer::log_probability({logits.row<float>(t), static_cast<std::size_t>(W)}, ids[static_cast<std::size_t>(t) + 1]);
  const double mean = T > 1 ? -sum / static_cast<double>(T - 1) : 0;
  if (o.json) fmt::print("{{\"tokens\": {}, \"scored\": {}, \"sum_logprob\": {:.9g}, \"nats_per_token\": {:.9g}}}\n", T, T - 1, sum, mean);
  else fmt::print("{} tokens, {} scored: {:.4f} nats a token\n", T, T - 1, mean);
}

}  // namespace

void add_score(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("score", "Log-probability of a text, or of token ids; optionally all logits");
  c->add_option("--model", o->model, "Model folder")->required();
  auto* ids = c->add_option("--ids", o->ids, "Token ids with commas between");
  c->add_option("--text", o->text, "A text, encoded by the model's tokenizer")->excludes(ids);
  c->add_option("--logits", o->logits, "safetensors file to write: tensor `logits`, FP32 [tokens, vocabulary]");
  c->add_option("--threads", o->threads, "0: one a core")->check(CLI::Range(0, 1024))->capture_default_str();
  c->add_flag("--json", o->json, "One JSON object instead of a line for people");
  c->footer("Example:\n  finback score --model runs/quickstart/model --text 'To be, or not to be'");
  c->callback([o] { score(*o); });
}

}  // namespace finback::cli
