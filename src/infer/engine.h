// Continuous batching: many requests through one model, a step at a time (docs/engine.md).
//
// A step takes one token of every answer that is being written and some pieces of prompts, all as rows of one ragged batch, and gives one
// new token to every request whose prompt is through. A request's logits have the same bits whatever else is going on: its neighbours, how
// its prompt is cut, whether a prefix was there already, whether it was pushed out and computed again, the number of threads.
//
// One thread calls. Memory is reserved when the engine is made and when a request is submitted. A server puts its queues around this.
#pragma once

#include "infer/draft_length.h"
#include "infer/loaded_model.h"
#include "infer/page_pool.h"
#include "infer/sampler.h"
#include "model/decoder.h"

#include <deque>
#include <memory>
#include <span>
#include <vector>

namespace finback::infer {

using RequestId = std::uint64_t;

struct Request {
  std::vector<std::int32_t> prompt;  // at least one token
  std::int64_t max_tokens = 16;      // of the answer
  SampleOptions sample = {};
  std::vector<std::int32_t> stop_tokens = {};  // an answer ends with one of these, which it includes
  int top_logprobs = -1;                       // log-probabilities of each token and of so many most likely ones; −1: of none
};

enum class Finish { none, stop, length };

// One new token of an answer; with guesses that held there are several in a step, in order. The spans hold until the next step.
struct Event {
  RequestId id = 0;
  std::int32_t token = 0;
  Finish finish = Finish::none;
  std::span<const float> logits;  // that it was drawn from, before bias and penalties
  double logprob = 0;
  std::span<const TokenProbability> top = {};
  std::int64_t reused_tokens = 0;  // of the prompt, whose latents were there when the request was admitted for the first time
};

struct EngineOptions {
  std::int64_t max_positions = 0;        // of a sequence, prompt and answer
  std::int64_t max_batch = 64;           // answers at a time
  std::int64_t max_step_tokens = 512;    // rows of a step, at least max_batch
  std::int64_t cache_bytes = 256 << 20;  // of pages; room for one sequence of max_positions at least
  bool reuse_prefixes = true;
  // Tokens that the model's first MTP module may guess ahead, as many as pay (draft_length.h); 0: none. A guess is kept if and only if it
  // is what the main model draws, so that answers are token for token those without.
  std::int64_t max_drafts = 0;
};

struct EngineCounters {
  std::int64_t steps = 0, rows = 0;  // rows: tokens that went through the model, for the first time or again
  std::int64_t prompt_tokens = 0, reused_tokens = 0, generated_tokens = 0, preemptions = 0;
  std::int64_t drafted_tokens = 0, accepted_tokens = 0;  // guesses that were verified, and those that held
  std::int64_t waiting = 0, running = 0, pages = 0, pages_held = 0;
};

class Engine {
 public:
  // The model must outlive it. Error(usage) where options or memory do not suffice.
  Engine(const LoadedModel& model, core::Team& team, const EngineOptions& options);
  ~Engine();

  // Error(usage) for what could never be answered: an empty prompt, ids outside the vocabulary, more than max_positions, options.
  RequestId submit(Request request);
  // From now on there are no events of it. Unknown ids are those that have ended.
  void cancel(RequestId id);
  bool idle() const;
  std::span<const Event> step();
  EngineCounters counters() const;
  std::int64_t experts_read() const { return decoder_.experts_read(); }

 private:
  struct Sequence;
  using Owned = std::unique_ptr<Sequence>;

  void admit();
  bool begin(Sequence& s);
  void share_rows();
  void take_pages();
  void preempt(std::size_t running);
  void clear_batch();
  void forward();
  void draw();
  void draw(Sequence& s, Sampler& sampler);
  void settle();
  void publish(Sequence& s);
  void follow();
  bool continue_guesses();
  void guess();
  void end(RequestId id);
  void give_back(Sequence& s);

  const LoadedModel& model_;
  core::Team& team_;
  EngineOptions options_;
  PagePool pool_;
  core::Arena scratch_, cache_memory_, logits_memory_;
  kernels::Context context_;
  model::Decoder decoder_;
  std::vector<core::Mat> cache_;  // a layer each
  core::Mat logits_BW_, draft_logits_BW_;
  std::vector<Sampler> samplers_;  // a thread each

  std::deque<Owned> waiting_;   // the oldest first
  std::vector<Owned> running_;  // the oldest first
  std::vector<Owned> ended_;    // by the last step, whose events speak of them
  RequestId last_id_ = 0;
  DraftLength draft_length_;
  EngineCounters counters_;

  // Of a step.
  std::vector<std::int32_t> ids_, wanted_, hidden_rows_;
  std::vector<kernels::PagedSegment> segments_;
  std::vector<Sequence*> drawing_, guessing_;
  std::int64_t verified_ = 0;  // guesses of an answer, at most
  std::vector<Event> events_;
};

}  // namespace finback::infer
