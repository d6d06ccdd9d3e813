#include "infer/sampler.h"

#include "core/error.h"
#include "core/rng.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace finback::infer {
namespace {

float at(std::span<const float> logits, std::int32_t i) { return logits[static_cast<std::size_t>(i)]; }

// Descending, ties to the lower id, NaN last.
auto by_logit(std::span<const float> logits) {
  return [logits](std::int32_t a, std::int32_t b) {
    const float x = at(logits, a), y = at(logits, b);
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x != y ? x > y : a < b;
  };
}

std::int32_t most_likely_of(std::span<const float> logits) {
  std::int32_t best = -1;
  for (std::int32_t i = 0; i < std::ssize(logits); ++i)
    if (!std::isnan(at(logits, i)) && (best < 0 || at(logits, i) > at(logits, best))) best = i;
  return std::max(best, 0);
}

// A token's probability relative to the most likely one's.
double weight(std::span<const float> logits, std::int32_t i, std::int32_t best, double temperature) {
  const float x = at(logits, i);
  return std::isnan(x) ? 0 : std::exp((static_cast<double>(x) - static_cast<double>(at(logits, best))) / temperature);
}

// The first tokens of `order` in descending order, enough of them to reach top_p of the weight of all; `order` holds the most likely
// first if it is sorted up to `sorted`.
std::size_t cover(std::span<const float> logits, std::span<std::int32_t> order, std::size_t sorted, std::int32_t best,
                  const SampleOptions& o) {
  double total = 0, covered = 0;
  for (const std::int32_t i : order) total += weight(logits, i, best, o.temperature);
  for (std::size_t n = 0; n < order.size(); ++n) {
    if (n == sorted) {  // some more: rarely all are wanted
      sorted = std::min(order.size(), std::max<std::size_t>(64, 8 * n));
      const auto from = order.begin() + static_cast<std::ptrdiff_t>(n), until = order.begin() + static_cast<std::ptrdiff_t>(sorted);
      if (until != order.end()) std::nth_element(from, until, order.end(), by_logit(logits));
      std::sort(from, until, by_logit(logits));
    }
    covered += weight(logits, order[n], best, o.temperature);
    if (covered >= o.top_p * total) return n + 1;
  }
  return order.size();
}

// argmax over `among` of logit / temperature + Gumbel noise, a draw from the softmax (Gumbel 1954; Maddison et al. 2014). Noise is
// −log(−log u): a token needs u above a bound to overtake, which spares most tokens their logarithms.
std::int32_t gumbel_max(std::span<const float> logits, std::span<const std::int32_t> among, std::int32_t best, double temperature,
                        const core::Rng& rng) {
  const auto score = [&](std::int32_t i) { return static_cast<double>(at(logits, i)) / temperature; };
  const auto noise = [](double u) { return -std::log(-std::log(u)); };
  const double top = score(best);
  std::int32_t chosen = best;
  double highest = -INFINITY, bound = 0;
  const auto consider = [&](std::int32_t i) {
    const double u = rng.uniform(static_cast<std::uint64_t>(i));
    if (u < bound) return;
    const double value = score(i) + noise(u);
    if (!(value > highest) && !(value == highest && i < chosen)) return;
    highest = value;
    chosen = i;
    bound = std::exp(-std::exp(top - highest)) * (1 - 1e-12);  // below it even the most likely token stays behind
  };
  consider(best);
  for (const std::int32_t i : among)
    if (i != best) consider(i);
  return chosen;
}

}  // namespace

void check(const SampleOptions& o, std::int64_t vocab_size) {
  const auto within = [](const char* name, double value, double low, double high) {
    if (value >= low && value <= high) return;
    throw core::Error(core::Exit::usage, fmt::format("{} is {}", name, value), name, fmt::format("give {} to {}", low, high));
  };
  within("temperature", o.temperature, 0, 100);
  if (!(o.top_p > 0 && o.top_p <= 1))
    throw core::Error(core::Exit::usage, fmt::format("top_p is {}", o.top_p), "top_p", "give more than 0, at most 1");
  within("top_k", static_cast<double>(o.top_k), 0, 1e9);
  within("min_p", o.min_p, 0, 1);
  within("repetition_penalty", o.repetition_penalty, 0.01, 100);
  within("presence_penalty", o.presence_penalty, -2, 2);
  within("frequency_penalty", o.frequency_penalty, -2, 2);
  for (const auto& [token, bias] : o.logit_bias) {
    within("logit_bias", static_cast<double>(bias), -100, 100);
    within("logit_bias's token", token, 0, static_cast<double>(vocab_size - 1));
  }
}

Sampler::Sampler(std::int64_t vocab_size)
    : order_(static_cast<std::size_t>(vocab_size)),
      count_(static_cast<std::size_t>(vocab_size)),
      logits_(static_cast<std::size_t>(vocab_size)) {}

std::span<const float> Sampler::penalised(std::span<const float> logits, const SampleOptions& o, std::span<const std::int32_t> tokens,
                                          std::int64_t prompt) {
  const bool penalties = o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0;
  if (!penalties && o.logit_bias.empty()) return logits;
  std::ranges::copy(logits, logits_.begin());
  for (const auto& [token, bias] : o.logit_bias) logits_[static_cast<std::size_t>(token)] += bias;
  if (!penalties) return logits_;
  const auto answer = tokens.subspan(static_cast<std::size_t>(prompt));
  for (const std::int32_t t : answer) ++count_[static_cast<std::size_t>(t)];
  // count_ says how often the answer has a token; what is done with is marked −1, and all is 0 again in the end.
  for (const std::int32_t t : tokens) {
    float& x = logits_[static_cast<std::size_t>(t)];
    std::int32_t& count = count_[static_cast<std::size_t>(t)];
    if (count < 0) continue;
    double y = static_cast<double>(x);
    y = y > 0 ? y / o.repetition_penalty : y * o.repetition_penalty;
    if (count > 0) y -= o.presence_penalty + o.frequency_penalty * count;
    x = static_cast<float>(y);
    count = -1;
  }
  for (const std::int32_t t : tokens) count_[static_cast<std::size_t>(t)] = 0;
  return logits_;
}

std::int32_t Sampler::draw(std::span<const float> raw, const SampleOptions& o, std::span<const std::int32_t> tokens, std::int64_t prompt) {
  const std::span<const float> logits = penalised(raw, o, tokens, prompt);
  const std::int32_t best = most_likely_of(logits);
  if (o.temperature == 0 || std::isnan(at(logits, best))) return best;

  std::iota(order_.begin(), order_.end(), 0);
  std::span<std::int32_t> among = order_;
  std::size_t sorted = 0;
  if (o.top_k > 0 && o.top_k < std::ssize(among)) {
    sorted = static_cast<std::size_t>(o.top_k);
    std::partial_sort(among.begin(), among.begin() + o.top_k, among.end(), by_logit(logits));
    among = among.first(sorted);
  }
  if (o.top_p < 1) among = among.first(cover(logits, among, sorted, best, o));
  if (o.min_p > 0) {
    const auto unlikely = std::ranges::remove_if(among, [&](std::int32_t i) { return weight(logits, i, best, o.temperature) < o.min_p; });
    among = among.first(among.size() - unlikely.size());
  }
  return gumbel_max(logits, among, best, o.temperature, {o.seed, core::Stream::sample, static_cast<std::uint32_t>(tokens.size())});
}

void Sampler::most_likely(std::span<const float> logits, std::span<TokenProbability> top) {
  std::iota(order_.begin(), order_.end(), 0);
  std::partial_sort(order_.begin(), order_.begin() + std::ssize(top), order_.end(), by_logit(logits));
  if (top.empty()) return;
  top[0] = {order_[0], log_probability(logits, order_[0])};
  for (std::size_t i = 1; i < top.size(); ++i)
    top[i] = {order_[i], top[0].logprob + static_cast<double>(at(logits, order_[i])) - static_cast<double>(at(logits, order_[0]))};
}

double log_probability(std::span<const float> logits, std::int32_t token) {
  double highest = -INFINITY, sum = 0;
  for (const float x : logits) highest = std::max(highest, static_cast<double>(x));
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - highest);
  return static_cast<double>(at(logits, token)) - highest - std::log(sum);
}

}  // namespace finback::infer
