// The engine's promise: a request's logits have the same bits alone and in any schedule. FINBACK_SCHEDULES says how many random ones are
// played: ten by default, 200 with FINBACK_FULL, ten thousand by `scripts/test-full serve`.
#include "infer/engine.h"

#include "core/error.h"
#include "core/rng.h"
#include "infer/generate.h"
#include "tests/infer/small_model.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

namespace finback::infer {
namespace {

constexpr std::int64_t W = test::kVocabulary, kPositions = 320;

// Numbers in turn.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : rng_(seed, core::Stream::test) {}
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(rng_.below(turn_++, static_cast<std::uint64_t>(n))); }
  std::int64_t between(std::int64_t low, std::int64_t high) { return low + below(high - low + 1); }
  bool one_in(std::int64_t n) { return below(n) == 0; }

 private:
  core::Rng rng_;
  std::uint64_t turn_ = 0;
};

struct Answer {
  std::vector<std::int32_t> tokens;
  std::vector<float> logits;  // of each token
  Finish finish = Finish::none;
};

void record(const Event& e, Answer& answer) {
  answer.tokens.push_back(e.token);
  answer.logits.insert(answer.logits.end(), e.logits.begin(), e.logits.end());
  answer.finish = e.finish;
}

// Alone, the prompt in one piece, nothing reused.
Answer alone(const LoadedModel& model, core::Team& team, const Request& request) {
  EngineOptions options = for_one_answer(model, kPositions);
  options.max_step_tokens = kPositions;
  Engine engine(model, team, options);
  engine.submit(request);
  Answer answer;
  while (!engine.idle())
    for (const Event& e : engine.step()) record(e, answer);
  return answer;
}

// Prompts of one token to four pages, most of them begun as another one is; all ways to sample.
std::vector<Request> requests(std::int64_t count) {
  Dice dice(77);
  std::vector<Request> all;
  for (std::int64_t i = 0; i < count; ++i) {
    Request r;
    const std::int64_t length = dice.one_in(4) ? dice.between(1, 8) : dice.between(1, 280);
    if (i > 0 && !dice.one_in(3)) r.prompt = all[static_cast<std::size_t>(dice.below(i))].prompt;
    r.prompt.resize(static_cast<std::size_t>(dice.between(0, std::min<std::int64_t>(length, std::ssize(r.prompt)))));
    while (std::ssize(r.prompt) < length) r.prompt.push_back(static_cast<std::int32_t>(dice.below(W)));
    r.max_tokens = dice.between(1, std::min<std::int64_t>(24, kPositions - length));
    r.sample.seed = static_cast<std::uint64_t>(i);
    if (dice.one_in(3)) r.sample.temperature = 0;
    if (dice.one_in(3)) r.sample.top_p = 0.8;
    if (dice.one_in(3)) r.sample.top_k = 20;
    if (dice.one_in(4)) r.sample.repetition_penalty = 1.3, r.sample.frequency_penalty = 0.4;
    if (dice.one_in(4)) r.stop_tokens = {static_cast<std::int32_t>(dice.below(W)), 3};
    all.push_back(r);
  }
  return all;
}

class EngineTest : public testing::TestWithParam<const char*> {
 protected:
  core::Team one_{1}, two_{2};
  test::SmallModel small_{"engine", GetParam(), two_, std::string(GetParam()) == "float32" ? 0 : 24};
  LoadedModel model_{small_.folder(), two_};
};

struct Play {
  const std::vector<Request>& requests;
  const std::vector<Answer>& answers;
};

// Returns how many requests were pushed out and how many tokens reused, so that the test knows it has tried both.
EngineCounters play(const LoadedModel& model, core::Team& team, const Play& play, std::uint64_t seed) {
  Dice dice(1000 + seed);
  EngineOptions o{.max_positions = kPositions};
  o.max_batch = dice.between(1, 8);
  o.max_step_tokens = o.max_batch + (dice.one_in(3) ? 0 : dice.between(0, 200));
  o.max_drafts = dice.one_in(2) ? dice.between(1, 4) : 0;
  o.cache_bytes = model::page_bytes(model.config(), model.precision().storage, o.max_drafts > 0) * dice.between(5, 16);
  o.reuse_prefixes = !dice.one_in(4);
  Engine engine(model, team, o);

  struct Going {
    std::size_t request;
    Answer answer;
    std::int64_t cancel_at;  // tokens
  };
  std::map<RequestId, Going> going;
  std::int64_t to_come = dice.between(1, 10);
  while (to_come > 0 || !engine.idle()) {
    while (to_come > 0 && (engine.idle() || dice.one_in(3))) {
      const auto r = static_cast<std::size_t>(dice.below(std::ssize(play.requests)));
      const RequestId id = engine.submit(play.requests[r]);
      going[id] = {r, {}, dice.one_in(6) ? dice.between(0, 6) : 1000};
      --to_come;
    }
    for (const Event& e : engine.step()) {
      Going& g = going.at(e.id);
      record(e, g.answer);
      const Answer& want = play.answers[g.request];
      const std::size_t n = g.answer.tokens.size() - 1;
      EXPECT_LT(n, want.tokens.size());
      if (n >= want.tokens.size() || std::memcmp(e.logits.data(), &want.logits[n * W], W * sizeof(float)) != 0 ||
          e.token != want.tokens[n]) {
        ADD_FAILURE() << "schedule " << seed << ", request " << g.request << ", token " << n << ": other logits than alone";
        return engine.counters();
      }
    }
    for (auto g = going.begin(); g != going.end();) {
      const bool ended = g->second.answer.finish != Finish::none;
      const bool cancelled = !ended && std::ssize(g->second.answer.tokens) >= g->second.cancel_at;
      if (ended) {
        EXPECT_EQ(g->second.answer.tokens.size(), play.answers[g->second.request].tokens.size());
      }
      if (cancelled) engine.cancel(g->first);
      g = ended || cancelled ? going.erase(g) : std::next(g);
    }
  }
  EXPECT_TRUE(going.empty());
  EXPECT_EQ(engine.counters().pages_held, 0);
  return engine.counters();
}

TEST_P(EngineTest, EveryScheduleHasTheLogitsOfEachRequestAlone) {
  const std::vector<Request> all = requests(24);
  std::vector<Answer> answers;
  for (const Request& r : all) answers.push_back(alone(model_, one_, r));
  const char* wanted = std::getenv("FINBACK_SCHEDULES");
  const std::int64_t schedules = wanted ? std::atoll(wanted) : std::getenv("FINBACK_FULL") ? 200 : 10;
  std::int64_t preemptions = 0, reused = 0, drafted = 0, accepted = 0;
  for (std::int64_t i = 0; i < schedules && !HasFailure(); ++i) {
    const EngineCounters c = play(model_, i % 2 ? one_ : two_, {all, answers}, static_cast<std::uint64_t>(i));
    preemptions += c.preemptions;
    reused += c.reused_tokens;
    drafted += c.drafted_tokens;
    accepted += c.accepted_tokens;
  }
  EXPECT_GT(drafted, accepted);
  EXPECT_GT(accepted, 0);
  EXPECT_GT(preemptions, 0);
  EXPECT_GT(reused, 0);
}

// The absorbed form of attention is the plain one within rounding: what training computes for the same tokens. Some thirty roundings along
// the way, each half an ulp and at random, are less than six ulps. Where they push a token over the edge to another expert its logits
// are others altogether, in bf16 now and then: hence the median token.
TEST_P(EngineTest, LogitsAreThePlainFormsWithinRounding) {
  Request request{.prompt = {}, .max_tokens = 40, .sample = {.temperature = 0}};
  Dice dice(5);
  for (int i = 0; i < 200; ++i) request.prompt.push_back(static_cast<std::int32_t>(dice.below(W)));
  const Answer answer = alone(model_, two_, request);
  std::vector<std::int32_t> ids = request.prompt;
  ids.insert(ids.end(), answer.tokens.begin(), answer.tokens.end());
  std::vector<float> plain(ids.size() * W);
  score(model_, two_, ids, core::mat(plain.data(), core::DType::f32, std::ssize(ids), W));
  std::vector<double> errors;
  for (std::size_t t = 0; t < answer.tokens.size(); ++t) {
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < W; ++i) {
      const double want = static_cast<double>(plain[(request.prompt.size() - 1 + t) * W + i]);
      error += std::pow(static_cast<double>(answer.logits[t * W + i]) - want, 2);
      norm += want * want;
    }
    errors.push_back(std::sqrt(error / norm));
  }
  std::ranges::nth_element(errors, errors.begin() + 20);
  EXPECT_LT(errors[20], 6 * (std::string(GetParam()) == "bfloat16" ? 0x1p-8 : 0x1p-21));
  EXPECT_GT(errors[20], 0);
}

TEST_P(EngineTest, TheNextTurnReusesThePagesOfThisOne) {
  Engine engine(model_, two_, {.max_positions = kPositions});
  Dice dice(6);
  std::vector<std::int32_t> prompt;
  for (int i = 0; i < 130; ++i) prompt.push_back(static_cast<std::int32_t>(dice.below(W)));
  engine.submit({.prompt = prompt, .max_tokens = 70});
  while (!engine.idle())
    for (const Event& e : engine.step()) prompt.push_back(e.token);
  prompt.push_back(5);
  engine.submit({.prompt = prompt, .max_tokens = 1});
  while (!engine.idle())
    for (const Event& e : engine.step()) EXPECT_EQ(e.reused_tokens, 3 * kernels::kPage);
  EXPECT_EQ(engine.counters().reused_tokens, 3 * kernels::kPage);  // the reply's too: 199 tokens were in pages
  EXPECT_EQ(engine.counters().prompt_tokens, 130 + 201);
}

TEST_P(EngineTest, ACancelledRequestIsGoneBeforeTheNextStep) {
  Engine engine(model_, one_, {.max_positions = kPositions, .max_batch = 1});
  const RequestId first = engine.submit({.prompt = {1, 2, 3}, .max_tokens = 50}), second = engine.submit({.prompt = {4}, .max_tokens = 2});
  EXPECT_EQ(engine.step().front().id, first);
  engine.cancel(first);
  EXPECT_EQ(engine.step().front().id, second);
  const auto last = engine.step();
  EXPECT_EQ(last.front().finish, Finish::length);
  EXPECT_TRUE(engine.idle());
  engine.cancel(second);  // ended already
}

// With a bias that leaves one token every guess holds.
TEST_P(EngineTest, GuessesThatHoldSaveSteps) {
  Engine engine(model_, two_, {.max_positions = kPositions, .max_drafts = 3});
  engine.submit({.prompt = {1, 2, 3}, .max_tokens = 33, .sample = {.logit_bias = {{9, 100.0f}}}});
  std::int64_t tokens = 0;
  while (!engine.idle())
    for (const Event& e : engine.step()) {
      EXPECT_EQ(e.token, 9);
      EXPECT_EQ(e.finish, ++tokens == 33 ? Finish::length : Finish::none);
    }
  const EngineCounters c = engine.counters();
  EXPECT_EQ(tokens, 33);
  EXPECT_EQ(c.steps, 9);  // one for the prompt, then four tokens each
  EXPECT_EQ(c.accepted_tokens, 24);
  EXPECT_EQ(c.drafted_tokens, 24);
}

TEST_P(EngineTest, LogProbabilitiesAreOfTheModelsOwnLogits) {
  Engine engine(model_, one_, {.max_positions = kPositions});
  engine.submit({.prompt = {1, 2, 3}, .max_tokens = 3, .sample = {.temperature = 0, .logit_bias = {{9, 100.0f}}}, .top_logprobs = 101});
  while (!engine.idle())
    for (const Event& e : engine.step()) {
      EXPECT_EQ(e.token, 9);
      ASSERT_EQ(e.top.size(), 101u);
      double sum = 0;
      for (const TokenProbability& p : e.top) {
        sum += std::exp(p.logprob);
        if (p.token == 9) {
          EXPECT_NEAR(p.logprob, e.logprob, 1e-9);
        }
      }
      EXPECT_NEAR(sum, 1, 1e-9);
      EXPECT_GE(e.top[0].logprob, e.top[1].logprob);
    }
}

TEST_P(EngineTest, WhatCannotBeAnsweredIsRefused) {
  Engine engine(model_, one_, {.max_positions = 100});
  const std::vector<std::int32_t> long_prompt(90, 1);
  for (const Request& r : std::vector<Request>{{.prompt = {}},
                                               {.prompt = {-1}},
                                               {.prompt = {static_cast<std::int32_t>(W)}},
                                               {.prompt = {1}, .max_tokens = 0},
                                               {.prompt = {1}, .max_tokens = 100},
                                               {.prompt = long_prompt, .max_tokens = 11},
                                               {.prompt = {1}, .sample = {.temperature = -1}},
                                               {.prompt = {1}, .top_logprobs = 1000}})
    EXPECT_THROW(engine.submit(r), core::Error);
  EXPECT_TRUE(engine.idle());
  EXPECT_NO_THROW(engine.submit({.prompt = long_prompt, .max_tokens = 10}));
  for (const EngineOptions& o : {EngineOptions{.max_positions = 1},
                                 {.max_positions = 1 << 20},
                                 {.max_positions = 100, .max_batch = 9, .max_step_tokens = 8},
                                 {.max_positions = 100, .cache_bytes = 100},
                                 {.max_positions = 100, .max_drafts = 17}})
    EXPECT_THROW(Engine(model_, one_, o), core::Error);
}

TEST_P(EngineTest, GenerationIsRepeatable) {
  std::vector<std::int32_t> first, second;
  for (auto* tokens : {&first, &second}) {
    Engine engine(model_, two_, for_one_answer(model_, 40));
    const Generated g = generate(engine, {.prompt = {1, 2, 3}, .max_tokens = 30, .sample = {.temperature = 0.9, .top_p = 0.9, .seed = 4}},
                                 [&](std::int32_t id) {
                                   tokens->push_back(id);
                                   return true;
                                 });
    EXPECT_EQ(g.tokens, 30);
    EXPECT_FALSE(g.ended);
  }
  EXPECT_EQ(first, second);
}

INSTANTIATE_TEST_SUITE_P(Precisions, EngineTest, testing::Values("bfloat16", "float32"),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace finback::infer
