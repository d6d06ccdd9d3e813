#include "train/recipe.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace finback::train {

double learning_rate(const RunConfig& config, std::int64_t step) {
  const auto& o = config.optimizer;
  const std::int64_t last_begin = config.train.steps - o.last_steps;
  if (step < o.warmup_steps) return o.lr * static_cast<double>(step + 1) / static_cast<double>(o.warmup_steps);
  if (o.last_steps > 0 && step >= last_begin) return o.last_lr;
  const std::int64_t into = step - o.warmup_steps - o.constant_steps;  // steps into the decay
  if (o.schedule == "constant" || into < 0) return o.lr;
  const std::int64_t length = o.decay_steps > 0 ? o.decay_steps : last_begin - o.warmup_steps - o.constant_steps;
  if (into >= length) return o.min_lr;
  const double part = static_cast<double>(into) / static_cast<double>(length);
  const double remains = o.schedule == "linear" ? 1 - part : 0.5 * (1 + std::cos(std::numbers::pi * part));
  return o.min_lr + (o.lr - o.min_lr) * remains;
}

std::int64_t least_batch(const RunConfig& config) {
  return config.train.micro_batch * config.parallel.dp * (config.parallel.schedule == "dualpipe" ? 2 : 1);
}

std::int64_t batch_size(const RunConfig& config, std::int64_t step) {
  const auto& t = config.train;
  if (t.ramp_from == 0 || step >= t.ramp_steps) return t.global_batch;
  const double grown = static_cast<double>(t.global_batch - t.ramp_from) * static_cast<double>(step) / static_cast<double>(t.ramp_steps);
  const std::int64_t least = least_batch(config);
  return t.ramp_from + static_cast<std::int64_t>(std::floor(grown / static_cast<double>(least) + 0.5)) * least;
}

int micro_batches(const RunConfig& config, std::int64_t sequences) {
  return static_cast<int>(sequences / (config.train.micro_batch * config.parallel.dp));
}

std::vector<int> all_micro_batches(const RunConfig& config) {
  std::vector<int> counts{micro_batches(config, config.train.global_batch)};
  for (std::int64_t step = 0; config.train.ramp_from > 0 && step < config.train.ramp_steps; ++step)
    if (const int n = micro_batches(config, batch_size(config, step)); n != counts.back()) counts.push_back(n);
  return counts;
}

double bias_update_speed(const RunConfig& config, std::int64_t step) {
  const auto& m = config.moe;
  return m.bias_freeze_step >= 0 && step >= m.bias_freeze_step ? 0 : m.bias_update_speed;
}

double mtp_loss_weight(const RunConfig& config, std::int64_t step) {
  const auto& m = config.mtp;
  return m.late_step >= 0 && step >= m.late_step ? m.loss_weight_late : m.loss_weight;
}

void update_gate_bias(std::span<const std::int64_t> load_E, double speed, core::Mat bias_1E) {
  const auto experts = static_cast<std::int64_t>(load_E.size());
  FB_CHECK(bias_1E.size() == experts, "{} loads, {} biases", experts, bias_1E.size());
  const std::int64_t total = std::accumulate(load_E.begin(), load_E.end(), std::int64_t{0});
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t above = load_E[static_cast<std::size_t>(e)] * experts - total;  // compared in integers: exact
    const double move = above > 0 ? -speed : above < 0 ? speed : 0;
    if (bias_1E.dtype == core::DType::f64) bias_1E.row<double>(0)[e] += move;
    else bias_1E.row<float>(0)[e] += static_cast<float>(move);
  }
}

double load_imbalance(std::span<const std::int64_t> load_E) {
  const std::int64_t total = std::accumulate(load_E.begin(), load_E.end(), std::int64_t{0});
  if (total == 0) return 0;
  const auto busiest = static_cast<double>(*std::max_element(load_E.begin(), load_E.end()));
  return busiest * static_cast<double>(load_E.size()) / static_cast<double>(total);
}

}  // namespace finback::train
