#include "infer/engine.h"

#include "core/error.h"
#include "core/machine.h"

#include <algorithm>

namespace finback::infer {
namespace {

using kernels::kPage;

std::int64_t pages_of(std::int64_t positions) { return (positions + kPage - 1) / kPage; }

std::int64_t pages_that_fit(const LoadedModel& model, const EngineOptions& o) {
  const auto refuse = [](const std::string& what, const char* where, const std::string& remedy) {
    throw core::Error(core::Exit::usage, what, where, remedy);
  };
  const model::ModelConfig& m = model.config();
  if (o.max_positions < 2 || o.max_positions > m.max_position_embeddings)
    refuse(fmt::format("a context of {}", o.max_positions), "max_positions", fmt::format("give 2 to {}", m.max_position_embeddings));
  if (o.max_batch < 1 || o.max_step_tokens < o.max_batch)
    refuse(fmt::format("{} answers, {} rows a step", o.max_batch, o.max_step_tokens), "max_batch", "give at least a row for each");
  const std::int64_t bytes = model::page_bytes(m, model.precision().storage), pages = o.cache_bytes / bytes;
  if (pages < pages_of(o.max_positions))
    refuse(fmt::format("a cache of {} bytes", o.cache_bytes), "cache_bytes",
           fmt::format("give at least {} for a sequence of {}", bytes * pages_of(o.max_positions), o.max_positions));
  core::require_memory(pages * bytes, "the latent cache");
  return pages;
}

model::Decoder::Options decoder_options(const LoadedModel& model, const EngineOptions& o) {
  return {.precision = model.precision(), .max_tokens = o.max_step_tokens, .max_wanted = o.max_batch, .max_positions = o.max_positions};
}

}  // namespace

// A request and how far it is. tokens[0 … cached) have their latents in pages.
struct Engine::Sequence {
  RequestId id = 0;
  Request request;
  std::vector<std::int32_t> tokens;  // prompt and answer
  std::vector<PagePool::Page> pages;
  std::int64_t cached = 0;
  std::int64_t published = 0;                  // pages, from the first
  PagePool::Prefix prefix = PagePool::kStart;  // that ends with the last of them
  std::int64_t rows = 0;                       // of this step
  std::vector<TokenProbability> top;

  std::int64_t pending() const { return std::ssize(tokens) - cached; }
  std::int64_t prompt() const { return std::ssize(request.prompt); }
};

Engine::Engine(const LoadedModel& model, core::Team& team, const EngineOptions& options)
    : model_(model),
      team_(team),
      options_(options),
      pool_(pages_that_fit(model, options)),
      scratch_("scratch", kernels::scratch_bytes(team.threads())),
      cache_memory_("latent cache",
                    pool_.pages() * model::page_bytes(model.config(), model.precision().storage) + model.config().num_hidden_layers * 64),
      logits_memory_("logits", options.max_batch * model.config().vocab_size * 4),
      context_{kernels::best(), team, scratch_},
      decoder_(model.config(), model.list(), decoder_options(model, options)),
      logits_BW_(logits_memory_.take_mat(core::DType::f32, options.max_batch, model.config().vocab_size)),
      samplers_(static_cast<std::size_t>(team.threads()), Sampler(model.config().vocab_size)) {
  const model::ModelConfig& m = model.config();
  for (std::int64_t l = 0; l < m.num_hidden_layers; ++l)
    cache_.push_back(cache_memory_.take_mat(model.precision().storage, pool_.pages() * kPage, m.kv_lora_rank + m.qk_rope_head_dim));
  const auto batch = static_cast<std::size_t>(options.max_batch);
  running_.reserve(batch);
  ended_.reserve(2 * batch);
  drawing_.reserve(batch);
  events_.reserve(batch);
  wanted_.reserve(batch);
  segments_.reserve(batch);
  ids_.reserve(static_cast<std::size_t>(options.max_step_tokens));
}
Engine::~Engine() = default;

RequestId Engine::submit(Request request) {
  const auto refuse = [](const std::string& what, const char* where, const std::string& remedy) {
    throw core::Error(core::Exit::usage, what, where, remedy);
  };
  const std::int64_t W = model_.config().vocab_size, prompt = std::ssize(request.prompt);
  check(request.sample, W);
  if (prompt == 0) refuse("the prompt has no tokens", "prompt", "begin with the beginning-of-sequence token at least");
  for (const std::int32_t id : request.prompt)
    if (id < 0 || id >= W) refuse(fmt::format("token id {}", id), "prompt", fmt::format("give ids from 0 to {}", W - 1));
  if (request.max_tokens < 1 || prompt > options_.max_positions - request.max_tokens)
    refuse(fmt::format("{} tokens after a prompt of {}", request.max_tokens, prompt), "max_tokens",
           fmt::format("give at least 1, and no more than {} in all", options_.max_positions));
  if (request.top_logprobs < -1 || request.top_logprobs > W)
    refuse(fmt::format("{} most likely tokens", request.top_logprobs), "top_logprobs", "give as many as the vocabulary has at most");
  auto s = std::make_unique<Sequence>();
  s->id = ++last_id_;
  s->tokens = request.prompt;
  s->tokens.reserve(static_cast<std::size_t>(prompt + request.max_tokens));
  s->pages.reserve(static_cast<std::size_t>(pages_of(prompt + request.max_tokens)));
  s->top.resize(static_cast<std::size_t>(std::max(request.top_logprobs, 0)));
  s->request = std::move(request);
  counters_.prompt_tokens += prompt;
  waiting_.push_back(std::move(s));
  return last_id_;
}

void Engine::cancel(RequestId id) {
  std::erase_if(waiting_, [id](const Owned& s) { return s->id == id; });
  end(id);
}

void Engine::end(RequestId id) {
  const auto at = std::ranges::find(running_, id, [](const Owned& s) { return s->id; });
  if (at == running_.end()) return;
  give_back(**at);
  ended_.push_back(std::move(*at));
  running_.erase(at);
}

bool Engine::idle() const { return waiting_.empty() && running_.empty(); }

std::span<const Event> Engine::step() {
  events_.clear();
  ended_.clear();
  admit();
  share_rows();
  take_pages();
  forward();
  draw();
  return events_;
}

EngineCounters Engine::counters() const {
  EngineCounters c = counters_;
  c.waiting = std::ssize(waiting_);
  c.running = std::ssize(running_);
  c.pages = pool_.pages();
  c.pages_held = pool_.pages() - pool_.available();
  return c;
}

// ---- who runs

// In the order of arrival and never past one that has to wait, so that none starves.
void Engine::admit() {
  while (!waiting_.empty() && std::ssize(running_) < options_.max_batch && begin(*waiting_.front())) {
    const auto younger = std::ranges::upper_bound(running_, waiting_.front()->id, {}, [](const Owned& s) { return s->id; });
    running_.insert(younger, std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

// Takes the pages of a prefix that is known; false if there is no room for the rest now.
bool Engine::begin(Sequence& s) {
  if (options_.reuse_prefixes)
    while (s.cached + kPage < std::ssize(s.tokens)) {  // at least one token is left to compute, for its logits
      const auto page = pool_.find(s.prefix, std::span(s.tokens).subspan(static_cast<std::size_t>(s.cached), kPage));
      if (page == PagePool::kNone) break;
      pool_.hold(page);
      s.pages.push_back(page);
      s.prefix = pool_.prefix(page);
      ++s.published;
      s.cached += kPage;
    }
  if (pages_of(std::ssize(s.tokens)) - std::ssize(s.pages) > pool_.available()) {
    give_back(s);
    return false;
  }
  counters_.reused_tokens += s.cached;
  return true;
}

// One row for every answer under way; what is left is shared among the prompts, evenly as far as they need it.
void Engine::share_rows() {
  std::int64_t left = options_.max_step_tokens, prompts = 0;
  for (const Owned& s : running_) {
    s->rows = s->pending() == 1 ? 1 : 0;
    left -= s->rows;
    prompts += s->pending() > 1;
  }
  for (const Owned& s : running_) {
    if (s->pending() == 1) continue;
    s->rows = std::min(s->pending(), (left + prompts - 1) / prompts);
    left -= s->rows;
    --prompts;
  }
}

// The oldest first; who finds none pushes out the youngest, and is content with the pages it has if that is itself.
void Engine::take_pages() {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Sequence& s = *running_[i];
    while (std::ssize(s.pages) < pages_of(s.cached + s.rows)) {
      if (pool_.available() > 0) {
        s.pages.push_back(pool_.take());
      } else if (i + 1 < running_.size()) {
        preempt(running_.size() - 1);
      } else {
        s.rows = std::min(s.rows, std::ssize(s.pages) * kPage - s.cached);
        break;
      }
    }
  }
}

void Engine::preempt(std::size_t i) {
  give_back(*running_[i]);
  const auto younger = std::ranges::upper_bound(waiting_, running_[i]->id, {}, [](const Owned& s) { return s->id; });
  waiting_.insert(younger, std::move(running_[i]));
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
  ++counters_.preemptions;
}

// Its pages; what it knows of them is to be computed, or found, again. The last page first: it is of the least use to others.
void Engine::give_back(Sequence& s) {
  for (; !s.pages.empty(); s.pages.pop_back()) pool_.release(s.pages.back());
  s.cached = s.published = s.rows = 0;
  s.prefix = PagePool::kStart;
}

// ---- what they compute

void Engine::forward() {
  ids_.clear();
  wanted_.clear();
  segments_.clear();
  drawing_.clear();
  for (const Owned& owned : running_) {
    Sequence& s = *owned;
    if (s.rows == 0) continue;
    segments_.push_back({std::ssize(ids_), s.rows, s.cached, s.pages.data()});
    const auto from = s.tokens.begin() + s.cached;
    ids_.insert(ids_.end(), from, from + s.rows);
    if (s.rows < s.pending()) continue;
    wanted_.push_back(static_cast<std::int32_t>(ids_.size()) - 1);
    drawing_.push_back(&s);
  }
  if (ids_.empty()) return;
  decoder_.forward(context_, model_.weights(), model_.absorbed(), cache_, {ids_, segments_, wanted_}, logits_BW_);
  ++counters_.steps;
  counters_.rows += std::ssize(ids_);
  for (const Owned& s : running_) {
    s->cached += s->rows;
    if (options_.reuse_prefixes) publish(*s);
  }
}

void Engine::publish(Sequence& s) {
  for (; (s.published + 1) * kPage <= s.cached; ++s.published)
    s.prefix = pool_.publish(s.pages[static_cast<std::size_t>(s.published)], s.prefix,
                             std::span(s.tokens).subspan(static_cast<std::size_t>(s.published * kPage), kPage));
}

void Engine::draw() {
  events_.resize(drawing_.size());
  core::parallel_for(team_, std::ssize(drawing_), [&](std::int64_t i, int thread) {
    Sequence& s = *drawing_[static_cast<std::size_t>(i)];
    Sampler& sampler = samplers_[static_cast<std::size_t>(thread)];
    const std::span<const float> logits(logits_BW_.row<float>(i), static_cast<std::size_t>(logits_BW_.cols));
    Event& event = events_[static_cast<std::size_t>(i)];
    event = {.id = s.id, .token = sampler.draw(logits, s.request.sample, s.tokens, s.prompt()), .logits = logits};
    if (s.request.top_logprobs >= 0) {
      event.logprob = log_probability(logits, event.token);
      sampler.most_likely(logits, s.top);
      event.top = s.top;
    }
    s.tokens.push_back(event.token);
    if (std::ranges::find(s.request.stop_tokens, event.token) != s.request.stop_tokens.end()) event.finish = Finish::stop;
    else if (std::ssize(s.tokens) == s.prompt() + s.request.max_tokens) event.finish = Finish::length;
  });
  counters_.generated_tokens += std::ssize(drawing_);
  for (std::size_t i = 0; i < drawing_.size(); ++i)
    if (events_[i].finish != Finish::none) end(drawing_[i]->id);
}

}  // namespace finback::infer
