// finback generate: continues a prompt and streams the text.
#include "infer/generate.h"
#include "cli/command.h"
#include "cli/output.h"
#include "core/log.h"
#include "core/machine.h"
#include "infer/text_stream.h"
#include "text/tokenizer.h"

#include <memory>

namespace finback::cli {
namespace {

struct Options {
  std::string model, prompt;
  std::int64_t max_tokens = 200;
  infer::SampleOptions sample;
  std::vector<std::string> stop;
  std::int64_t drafts = 0;
  int threads = 0;
};

void generate(const Options& o) {
  infer::check(o.sample, /*vocab_size=*/0);  // before the weights are read; no logit has a bias here
  core::Team team(o.threads > 0 ? o.threads : core::this_machine().cores);
  const infer::LoadedModel model(o.model, team);
  const text::Tokenizer tokenizer = text::Tokenizer::load(o.model);
  std::vector<std::int32_t> prompt = tokenizer.encode(o.prompt);
  if (tokenizer.add_bos() || prompt.empty()) prompt.insert(prompt.begin(), static_cast<std::int32_t>(model.config().bos_token_id));
  for (const std::int32_t id : prompt)
    if (id >= model.config().vocab_size)
      throw core::Error(core::Exit::bad_input,
                        fmt::format("the tokenizer gives id {} and the model knows {}", id, model.config().vocab_size), o.model,
                        "use the tokenizer that the model was trained with");

  const auto prompt_tokens = static_cast<std::int64_t>(prompt.size());
  const std::int64_t room = model.config().max_position_embeddings - prompt_tokens;
  if (room < 1)
    throw core::Error(core::Exit::usage, fmt::format("a prompt of {} tokens", prompt_tokens), "--prompt",
                      fmt::format("give fewer than max_position_embeddings = {}", model.config().max_position_embeddings));
  const std::int64_t max_tokens = std::min(o.max_tokens, room);
  infer::Engine engine(model, team, infer::for_one_answer(model, prompt_tokens + max_tokens, o.drafts));
  infer::TextStream out(o.stop);
  write_output(o.prompt);
  const infer::Generated g = infer::generate(engine,
                                             {.prompt = prompt,
                                              .max_tokens = max_tokens,
                                              .sample = o.sample,
                                              .stop_tokens = {static_cast<std::int32_t>(model.config().eos_token_id)}},
                                             [&](std::int32_t id) {
                                               write_output(out.put(id < tokenizer.vocab_size() ? tokenizer.token_bytes(id) : ""));
                                               return !out.stopped();
                                             });
  write_output(out.end());
  write_output("\n");
  core::inform("{} prompt tokens in {:.2f} s, {} tokens in {:.2f} s: {:.1f} tokens/s{}", g.prompt_tokens, g.prefill_seconds, g.tokens,
               g.decode_seconds, static_cast<double>(g.tokens) / std::max(g.decode_seconds, 1e-9), g.ended ? ", ended by itself" : "");
  const infer::EngineCounters counters = engine.counters();
  if (o.drafts > 0)
    core::inform("{} guesses verified, {} held; {} steps", counters.drafted_tokens, counters.accepted_tokens, counters.steps);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("generate", "Continue a prompt; the text streams to standard output");
  c->add_option("--model", o->model, "Model folder")->required();
  c->add_option("--prompt", o->prompt, "Text to continue; empty: from the beginning of a document");
  c->add_option("--max-tokens", o->max_tokens, "At most so many new tokens")->check(CLI::Range(1, 1 << 24))->capture_default_str();
  c->add_option("--temperature", o->sample.temperature, "0: always the most likely token")->capture_default_str();
  c->add_option("--top-p", o->sample.top_p, "Draw from the most likely tokens that together reach this probability")->capture_default_str();
  c->add_option("--top-k", o->sample.top_k, "Draw from so many of the most likely tokens; 0: from all")->capture_default_str();
  c->add_option("--min-p", o->sample.min_p, "Draw from tokens at least so likely as this share of the most likely")->capture_default_str();
  c->add_option("--repetition-penalty", o->sample.repetition_penalty, "Above 1: tokens that were there become less likely")
      ->capture_default_str();
  c->add_option("--stop", o->stop, "The answer ends before this text");
  c->add_option("--drafts", o->drafts, "Tokens that the MTP module may guess ahead; the text is the same without")
      ->check(CLI::Range(0, 16))
      ->capture_default_str();
  c->add_option("--seed", o->sample.seed, "The same seed gives the same text")->capture_default_str();
  c->add_option("--threads", o->threads, "0: one a core")->check(CLI::Range(0, 1024))->capture_default_str();
  c->footer(
      "Example:\n  finback generate --model runs/quickstart/model --prompt 'ROMEO:' --max-tokens 200 --temperature 0.8 --top-p 0.95 --seed "
      "1");
  c->callback([o] { generate(*o); });
}

}  // namespace finback::cli
