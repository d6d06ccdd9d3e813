// Draws the next token from logits. The draw is a pure function of (logits, options, position): Gumbel-max with a
// counter-based generator at (seed, position), so that a seeded answer depends on nothing else.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace finback::infer {

struct SampleOptions {
  double temperature = 1;  // 0: the most likely token
  double top_p = 1;        // the smallest set of most likely tokens whose probability reaches this, in (0, 1]
  std::uint64_t seed = 0;
};

// Throws core::Error(usage) naming the option and its range.
void check(const SampleOptions& options);

class Sampler {
 public:
  explicit Sampler(const SampleOptions& options) : options_(options) {}
  // logits are not changed. A NaN logit is never drawn.
  std::int32_t draw(std::span<const float> logits, std::uint64_t position);

 private:
  SampleOptions options_;
  std::vector<std::int32_t> order_;  // kept between draws, so that a draw does not allocate
};

}  // namespace finback::infer
