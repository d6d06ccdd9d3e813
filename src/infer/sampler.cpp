#include "infer/sampler.h"

#include "core/error.h"
#include "core/rng.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace finback::infer {

void check(const SampleOptions& o) {
  const auto refuse = [](const char* name, double value, const char* range) {
    throw core::Error(core::Exit::usage, fmt::format("{} is {}", name, value), fmt::format("--{}", name), fmt::format("give {}", range));
  };
  if (!(o.temperature >= 0 && o.temperature <= 100)) refuse("temperature", o.temperature, "0 to 100");
  if (!(o.top_p > 0 && o.top_p <= 1)) refuse("top-p", o.top_p, "more than 0, at most 1");
}

std::int32_t Sampler::draw(std::span<const float> logits, std::uint64_t position) {
  const auto at = [&](std::int32_t i) { return static_cast<double>(logits[static_cast<std::size_t>(i)]); };
  // Descending, ties to the lower id, NaN last.
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const double x = at(a), y = at(b);
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x != y ? x > y : a < b;
  };
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  const std::int32_t best = *std::min_element(order_.begin(), order_.end(), before);
  if (options_.temperature == 0 || std::isnan(at(best))) return best;

  std::size_t candidates = order_.size();
  if (options_.top_p < 1) {
    std::sort(order_.begin(), order_.end(), before);
    const auto weight = [&](std::int32_t i) { return std::isnan(at(i)) ? 0.0 : std::exp((at(i) - at(best)) / options_.temperature); };
    double total = 0, covered = 0;
    for (const std::int32_t i : order_) total += weight(i);
    for (candidates = 0; candidates < order_.size() && covered < options_.top_p * total; ++candidates)
      covered += weight(order_[candidates]);
  }
  // argmax of logit / temperature + Gumbel noise is a draw from the softmax (Gumbel 1954; Maddison et al. 2014).
  const core::Rng rng(options_.seed, core::Stream::sample, static_cast<std::uint32_t>(position));
  std::int32_t chosen = best;
  double highest = -INFINITY;
  for (std::size_t c = 0; c < candidates; ++c) {
    const std::int32_t i = order_[c];
    const double value = at(i) / options_.temperature - std::log(-std::log(rng.uniform(static_cast<std::uint64_t>(i))));
    if (value > highest) highest = value, chosen = i;
  }
  return chosen;
}

}  // namespace finback::infer
