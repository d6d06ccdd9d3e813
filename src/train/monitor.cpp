#include "train/monitor.h"

#include "core/clock.h"
#include "core/error.h"
#include "model/flops.h"
#include "train/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace finback::train {
namespace {

constexpr std::int64_t kLoadColumns = 256;  // of the report's heat map
constexpr std::uint64_t kMaxMetricsBytes = std::uint64_t{4} << 30;

// The history up to `last`, and the file rewritten to hold just that.
History read_history(const std::string& path, std::int64_t last) {
  History h;
  if (!core::exists(path)) return h;
  const std::string text = core::read_file(path, kMaxMetricsBytes);
  std::string kept;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    if (h.add_line(line, last)) kept.append(line) += '\n';
    begin = end + 1;
  }
  if (kept != text) core::write_file_atomic(path, kept);
  return h;
}

}  // namespace

std::string duration(double seconds) {
  const auto s = static_cast<std::int64_t>(std::clamp(std::round(seconds), 0.0, 1e12));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m {}s", s / 60, s % 60);
  return fmt::format("{}h {}m", s / 3600, s % 3600 / 60);
}

Monitor::Monitor(RunFacts facts, double ceiling_flops, std::int64_t first_step)
    : facts_(std::move(facts)),
      ceiling_flops_(ceiling_flops),
      load_every_(std::max<std::int64_t>(1, (facts_.run.train.steps + kLoadColumns - 1) / kLoadColumns)),
      reported_at_(core::seconds_now()) {
  const std::string& dir = facts_.run.output.dir;
  history_ = read_history(dir + "/metrics.jsonl", first_step);
  metrics_.emplace(dir + "/metrics.jsonl", /*truncate=*/first_step == 0);
  if (facts_.run.output.tensorboard) events_.emplace(dir, first_step + 1);
}

void Monitor::guarded(const std::function<void()>& write) {
  try {
    write();
  } catch (const core::Error& e) {
    if (!warned_) core::warn("{}; training goes on without it", e.what());
    warned_ = true;
  }
}

void Monitor::step(const StepReport& r, std::int64_t tokens_so_far, double seconds) {
  const auto& run = facts_.run;
  const bool with_mtp = facts_.model.num_nextn_predict_layers > 0 && mtp_loss_weight(run, r.step - 1) > 0;
  seconds_per_step_ = seconds_per_step_ == 0 ? seconds : 0.9 * seconds_per_step_ + 0.1 * seconds;
  const double rate = seconds > 0 ? static_cast<double>(r.tokens) / seconds : 0;
  tokens_per_s_ = tokens_per_s_ == 0 ? rate : 0.9 * tokens_per_s_ + 0.1 * rate;
  const double share =
      ceiling_flops_ > 0 ? rate * model::model_flops_per_token(facts_.model, run.data.seq_len, with_mtp) / ceiling_flops_ : 0;
  share_ = share_ == 0 ? share : 0.9 * share_ + 0.1 * share;
  const StepRecord record{.step = r.step,
                          .tokens = tokens_so_far,
                          .loss = r.loss,
                          .mtp_loss = r.mtp_loss,
                          .mtp_acceptance = r.mtp_acceptance,
                          .balance_loss = r.balance_loss,
                          .grad_norm = r.grad_norm,
                          .learning_rate = r.learning_rate,
                          .imbalance = r.imbalance,
                          .seconds = seconds,
                          .tokens_per_s = rate,
                          .share_of_ceiling = share,
                          .nonfinite_tiles = static_cast<double>(r.nonfinite_tiles)};
  history_.add(record);
  guarded([&] { metrics_->append(to_line(record)); });
  add_load(r);
  if (events_) {
    // Megatron's tags, which people know.
    const formats::Scalar scalars[] = {{"lm loss", r.loss},
                                       {"mtp_1 loss", r.mtp_loss},
                                       {"mtp_1 acceptance", r.mtp_acceptance},
                                       {"load_balancing_loss", r.balance_loss},
                                       {"load imbalance", r.imbalance},
                                       {"grad-norm", r.grad_norm},
                                       {"learning-rate", r.learning_rate},
                                       {"iteration-time", seconds},
                                       {"throughput", rate}};
    guarded([&] { events_->add(r.step, scalars); });
  }
  progress_.update(live_line(r));
}

void Monitor::add_load(const StepReport& r) {
  const model::ModelConfig& m = facts_.model;
  if (m.n_routed_experts == 0) return;
  const auto experts = static_cast<std::size_t>(m.n_routed_experts);
  std::size_t at = 0;
  for (std::int64_t block = 0; block < m.blocks(); ++block) {
    if (!m.is_moe_layer(block)) continue;
    if (pending_load_.load.size() < at + experts) pending_load_.load.resize(at + experts, 0);
    for (std::size_t e = 0; e < experts; ++e) pending_load_.load[at + e] += r.expert_load[static_cast<std::size_t>(block) * experts + e];
    at += experts;
  }
  if (r.step % load_every_ != 0 && r.step != facts_.run.train.steps) return;
  pending_load_.step = r.step;
  guarded([&] { metrics_->append(to_line(pending_load_)); });
  history_.add(pending_load_);
  pending_load_.load.assign(at, 0);
}

std::string Monitor::live_line(const StepReport& r) const {
  const std::int64_t steps = facts_.run.train.steps;
  std::string line = fmt::format("step {:>{}}/{}  loss {:.4f}", r.step, fmt::formatted_size("{}", steps), steps, r.loss);
  if (r.mtp_loss > 0) line += fmt::format("  mtp {:.4f}", r.mtp_loss);
  line += fmt::format("  {:.0f} tokens/s", tokens_per_s_);
  if (share_ > 0) line += fmt::format(" ({:.0f}% of ceiling)", 100 * share_);
  if (r.imbalance > 0) line += fmt::format("  load ×{:.2f}", r.imbalance);
  return line + fmt::format("  {} left", duration(static_cast<double>(steps - r.step) * seconds_per_step_));
}

void Monitor::evaluation(std::int64_t step, const Evaluation& e) {
  const EvaluationRecord r{step, e.nats_per_token(), e.nats_per_char(), e.bits_per_byte(), e.mtp_loss(), e.mtp_acceptance()};
  history_.add(r);
  guarded([&] { metrics_->append(to_line(r)); });
  if (events_) {
    const formats::Scalar scalars[] = {{"lm loss validation", r.nats_per_token},
                                       {"lm loss validation (nats per character)", r.nats_per_char},
                                       {"lm loss validation (bits per byte)", r.bits_per_byte},
                                       {"mtp_1 acceptance validation", r.mtp_acceptance}};
    guarded([&] { events_->add(step, scalars); });
  }
  progress_.finish(fmt::format("step {}: held-out loss {:.4f} nats per token, {:.4f} per character, {:.4f} bits per byte", step,
                               r.nats_per_token, r.nats_per_char, r.bits_per_byte));
}

void Monitor::event(std::int64_t step, std::string text, bool warn) {
  progress_.finish();
  if (warn) core::warn("step {}: {}", step, text);
  else core::inform("step {}: {}", step, text);
  history_.events.push_back({step, std::move(text)});
  guarded([&] { metrics_->append(to_line(history_.events.back())); });
}

void Monitor::report(bool finished, bool now) {
  const double time = core::seconds_now();
  if (!now && time - reported_at_ < facts_.run.output.report_seconds) return;
  reported_at_ = time;
  guarded([&] { core::write_file_atomic(facts_.run.output.dir + "/report.html", report_html(facts_, history_, finished)); });
}

void Monitor::finish_line() { progress_.finish(); }

}  // namespace finback::train
