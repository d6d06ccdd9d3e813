// Draws the next token from logits. A draw is a pure function of (logits, options, the tokens so far): Gumbel-max with a counter-based
// generator at (seed, position), so that a seeded answer depends on nothing else.
//
// In order: logit bias and penalties; temperature; then the candidates, of top-k, of those top-p, of those min-p; then the draw.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace finback::infer {

struct SampleOptions {
  double temperature = 1;         // 0: the most likely token
  double top_p = 1;               // the smallest set of most likely tokens whose probability reaches this, in (0, 1]
  std::int64_t top_k = 0;         // only so many of the most likely tokens; 0: all
  double min_p = 0;               // only tokens at least so likely as a share of the most likely one, in [0, 1]
  double repetition_penalty = 1;  // of tokens in prompt or answer: positive logits divided by it, negative ones multiplied (Keskar 2019)
  double presence_penalty = 0;    // subtracted from the logit of a token that the answer has, in [-2, 2]
  double frequency_penalty = 0;   // … and this as often as it has it
  std::vector<std::pair<std::int32_t, float>> logit_bias = {};  // added to logits, in [-100, 100]
  std::uint64_t seed = 0;
};

// Throws core::Error(usage) naming the option and its range.
void check(const SampleOptions& options, std::int64_t vocab_size);

struct TokenProbability {
  std::int32_t token = 0;
  double logprob = 0;
};

// One thread's working memory.
class Sampler {
 public:
  explicit Sampler(std::int64_t vocab_size);

  // The token at position tokens.size(), of which the first `prompt` tokens are the prompt. logits are not changed. A NaN is never drawn
  // unless all are; ties go to the lower id. Does not allocate.
  std::int32_t draw(std::span<const float> logits, const SampleOptions& options, std::span<const std::int32_t> tokens, std::int64_t prompt);

  // The most likely tokens, as many as `top` holds, by the logits as the model gives them.
  void most_likely(std::span<const float> logits, std::span<TokenProbability> top);

 private:
  std::span<const float> penalised(std::span<const float> logits, const SampleOptions& options, std::span<const std::int32_t> tokens,
                                   std::int64_t prompt);

  std::vector<std::int32_t> order_, count_;
  std::vector<float> logits_;
};

// log softmax(logits)[token], summed in double.
double log_probability(std::span<const float> logits, std::int32_t token);

}  // namespace finback::infer
