#include "infer/engine.h"

#include "core/clock.h"
#include "core/error.h"
#include "core/machine.h"
#include "infer/sequence.h"

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
  if (o.max_drafts < 0 || o.max_drafts > 16 || (o.max_drafts > 0 && m.num_nextn_predict_layers == 0))
    refuse(fmt::format("{} tokens guessed ahead by {} MTP modules", o.max_drafts, m.num_nextn_predict_layers), "max_drafts",
           "give 0, or up to 16 to a model with num_nextn_predict_layers");
  const std::int64_t bytes = model::page_bytes(m, model.precision().storage, o.max_drafts > 0), pages = o.cache_bytes / bytes;
  if (pages < pages_of(o.max_positions))
    refuse(fmt::format("a cache of {} bytes", o.cache_bytes), "cache_bytes",
           fmt::format("give at least {} for a sequence of {}", bytes * pages_of(o.max_positions), o.max_positions));
  core::require_memory(pages * bytes, "the latent cache");
  return pages;
}

model::Decoder::Options decoder_options(const LoadedModel& model, const EngineOptions& o) {
  return {.precision = model.precision(),
          .max_tokens = o.max_step_tokens,
          .max_wanted = o.max_batch * (1 + o.max_drafts),
          .max_positions = o.max_positions,
          .drafts = o.max_drafts > 0};
}

}  // namespace

Engine::Engine(const LoadedModel& model, core::Team& team, const EngineOptions& options)
    : model_(model),
      team_(team),
      options_(options),
      pool_(pages_that_fit(model, options)),
      scratch_("scratch", kernels::scratch_bytes(team.threads())),
      cache_memory_("latent cache", pool_.pages() * model::page_bytes(model.config(), model.precision().storage, options.max_drafts > 0) +
                                        model.config().blocks() * 64),
      logits_memory_("logits", options.max_batch * (2 + options.max_drafts) * model.config().vocab_size * 4 + 64),
      context_{kernels::best(), team, scratch_},
      decoder_(model.config(), model.list(), decoder_options(model, options)),
      logits_BW_(logits_memory_.take_mat(core::DType::f32, options.max_batch * (1 + options.max_drafts), model.config().vocab_size)),
      draft_logits_BW_(logits_memory_.take_mat(core::DType::f32, options.max_batch, model.config().vocab_size)),
      samplers_(static_cast<std::size_t>(team.threads()), Sampler(model.config().vocab_size)),
      draft_length_(options.max_drafts) {
  const model::ModelConfig& m = model.config();
  for (std::int64_t l = 0; l < m.num_hidden_layers + (options.max_drafts > 0); ++l)
    cache_.push_back(cache_memory_.take_mat(model.precision().storage, pool_.pages() * kPage, m.kv_lora_rank + m.qk_rope_head_dim));
  const auto batch = static_cast<std::size_t>(options.max_batch);
  running_.reserve(batch);
  ended_.reserve(2 * batch);
  drawing_.reserve(batch);
  guessing_.reserve(batch);
  events_.reserve(batch * static_cast<std::size_t>(1 + options.max_drafts));
  wanted_.reserve(events_.capacity());
  hidden_rows_.reserve(static_cast<std::size_t>(options.max_step_tokens));
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
  s->top.resize(static_cast<std::size_t>(std::max(request.top_logprobs, 0) * (1 + options_.max_drafts)));
  s->drafts.reserve(static_cast<std::size_t>(options_.max_drafts));
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
  const double start = core::seconds_now();
  forward();
  const bool answers_alone = !ids_.empty() && ids_.size() == wanted_.size();
  draw();
  settle();
  if (options_.max_drafts > 0) follow();
  if (answers_alone) draft_length_.observe(std::ssize(drawing_), verified_, std::ssize(events_), core::seconds_now() - start);
  for (const Sequence* s : drawing_)
    if (s->finish != Finish::none) end(s->id);
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
  if (s.reused < 0) s.reused = s.cached;
  return true;
}

// One row for every answer under way. What is left is for guesses, half of it at most if there are prompts, and then shared among those,
// evenly as far as they need it.
void Engine::share_rows() {
  const std::int64_t answers = std::ranges::count_if(running_, [](const Owned& s) { return s->pending() == 1; });
  std::int64_t prompts = std::ssize(running_) - answers, left = options_.max_step_tokens - answers;
  std::int64_t for_guesses = prompts > 0 ? left / 2 : left;
  for (const Owned& s : running_) {
    if (s->pending() > 1) continue;
    s->drafts.resize(static_cast<std::size_t>(std::min(for_guesses, std::ssize(s->drafts))));
    s->rows = 1 + std::ssize(s->drafts);
    for_guesses -= std::ssize(s->drafts);
    left -= std::ssize(s->drafts);
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
        s.drafts.resize(static_cast<std::size_t>(std::clamp<std::int64_t>(s.rows - s.pending(), 0, std::ssize(s.drafts))));
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
  s.cached = s.published = s.rows = s.advance = 0;
  s.drafts.clear();
  s.prefix = PagePool::kStart;
}

// ---- what they compute

void Engine::clear_batch() {
  ids_.clear();
  wanted_.clear();
  segments_.clear();
  hidden_rows_.clear();
}

void Engine::forward() {
  clear_batch();
  drawing_.clear();
  verified_ = 0;
  for (const Owned& owned : running_) {
    Sequence& s = *owned;
    if (s.rows == 0) continue;
    s.first_row = std::ssize(ids_);
    segments_.push_back({s.first_row, s.rows, s.cached, s.pages.data()});
    const auto from = s.tokens.begin() + s.cached;
    ids_.insert(ids_.end(), from, from + std::min(s.rows, s.pending()));
    ids_.insert(ids_.end(), s.drafts.begin(), s.drafts.end());
    if (s.rows < s.pending()) continue;
    s.first_wanted = std::ssize(wanted_);
    for (std::int64_t r = s.pending() - 1; r < s.rows; ++r) wanted_.push_back(static_cast<std::int32_t>(s.first_row + r));
    drawing_.push_back(&s);
    verified_ = std::max(verified_, std::ssize(s.drafts));
  }
  if (ids_.empty()) return;
  decoder_.forward(context_, model_.weights(), model_.absorbed(), cache_, {ids_, segments_, wanted_}, logits_BW_);
  ++counters_.steps;
  counters_.rows += std::ssize(ids_);
}

void Engine::draw() {
  for (const Owned& s : running_) s->advance = s->rows;
  events_.assign(wanted_.size(), {});
  core::parallel_for(team_, std::ssize(drawing_), [&](std::int64_t i, int thread) {
    draw(*drawing_[static_cast<std::size_t>(i)], samplers_[static_cast<std::size_t>(thread)]);
  });
  std::erase_if(events_, [](const Event& e) { return e.id == 0; });  // after a guess that did not hold
  counters_.generated_tokens += std::ssize(events_);
}

// One token, and one more for every guess that it and those after it turn out to be.
void Engine::draw(Sequence& s, Sampler& sampler) {
  const Request& r = s.request;
  s.advance = s.pending();
  for (std::int64_t i = 0; s.finish == Finish::none; ++i) {
    const std::span<const float> logits(logits_BW_.row<float>(s.first_wanted + i), static_cast<std::size_t>(logits_BW_.cols));
    Event& event = events_[static_cast<std::size_t>(s.first_wanted + i)];
    event = {.id = s.id, .token = sampler.draw(logits, r.sample, s.tokens, s.prompt()), .logits = logits, .reused_tokens = s.reused};
    if (r.top_logprobs >= 0) {
      const auto n = static_cast<std::size_t>(r.top_logprobs);
      event.logprob = log_probability(logits, event.token);
      event.top = std::span(s.top).subspan(static_cast<std::size_t>(i) * n, n);
      sampler.most_likely(logits, std::span(s.top).subspan(static_cast<std::size_t>(i) * n, n));
    }
    s.tokens.push_back(event.token);
    if (std::ranges::find(r.stop_tokens, event.token) != r.stop_tokens.end()) s.finish = Finish::stop;
    else if (s.left() == 0) s.finish = Finish::length;
    event.finish = s.finish;
    if (i == std::ssize(s.drafts) || s.drafts[static_cast<std::size_t>(i)] != event.token) return;
    ++s.advance;
  }
}

void Engine::settle() {
  for (const Owned& s : running_) {
    counters_.drafted_tokens += std::ssize(s->drafts);
    if (s->rows > 0) counters_.accepted_tokens += s->advance - (s->rows - std::ssize(s->drafts));
    s->cached += s->advance;
    if (options_.reuse_prefixes) publish(*s);
  }
}

void Engine::publish(Sequence& s) {
  for (; (s.published + 1) * kPage <= s.cached; ++s.published)
    s.prefix = pool_.publish(s.pages[static_cast<std::size_t>(s.published)], s.prefix,
                             std::span(s.tokens).subspan(static_cast<std::size_t>(s.published * kPage), kPage));
}

}  // namespace finback::infer
