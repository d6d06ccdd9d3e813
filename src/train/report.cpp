#include "train/report.h"

#include "formats/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace finback::train {
namespace {

using formats::LineChart;
using formats::Series;

Series of(const History& h, std::string name, double StepRecord::*member, bool faint = false) {
  Series s{std::move(name), {}, {}, faint};
  for (const StepRecord& r : h.steps) {
    s.x.push_back(static_cast<double>(r.step));
    s.y.push_back(r.*member);
  }
  return s;
}

Series of(const History& h, std::string name, double EvaluationRecord::*member) {
  Series s{std::move(name), {}, {}};
  for (const EvaluationRecord& r : h.evaluations) {
    s.x.push_back(static_cast<double>(r.step));
    s.y.push_back(r.*member);
  }
  return s;
}

// A moving average over about `window` steps; NaN steps are left out of it.
Series smooth(Series s, double window) {
  s.faint = false;
  double mean = 0, weight = 0;
  for (double& y : s.y) {
    const double keep = 1 - 1 / window;
    if (std::isfinite(y)) {
      mean = keep * mean + (1 - keep) * y;
      weight = keep * weight + (1 - keep);
    }
    y = weight > 0 ? mean / weight : std::numeric_limits<double>::quiet_NaN();
  }
  return s;
}

// The raw line pale behind its average.
void add_smoothed(LineChart& chart, const History& h, const std::string& name, double StepRecord::*member) {
  const double window = std::clamp(static_cast<double>(h.steps.size()) / 50, 5.0, 200.0);
  chart.series.push_back(of(h, name, member, /*faint=*/true));
  chart.series.push_back(smooth(of(h, name, member), window));
}

LineChart chart(std::string title, std::string y_label) {
  LineChart c;
  c.title = std::move(title);
  c.x_label = "step";
  c.y_label = std::move(y_label);
  return c;
}

formats::HeatMap load_map(const RunFacts& facts, const History& h) {
  formats::HeatMap map;
  map.title = "Load of every expert";
  map.x_label = "step";
  map.scale_label = "× the even load";
  const auto experts = static_cast<std::size_t>(facts.model.n_routed_experts);
  std::size_t rows = 0;
  for (std::int64_t block = 0; block < facts.model.blocks(); ++block) {
    if (!facts.model.is_moe_layer(block)) continue;
    const bool mtp = block >= facts.model.num_hidden_layers;
    map.groups.push_back({fmt::format("{} {}", mtp ? "MTP" : "layer", block), facts.model.n_routed_experts});
    rows += experts;
  }
  for (const LoadRecord& r : h.loads) {
    if (r.load.size() != rows) continue;  // of a run with other layers
    map.x.push_back(static_cast<double>(r.step));
    for (std::size_t first = 0; first < rows; first += experts) {
      std::int64_t total = 0;
      for (std::size_t e = 0; e < experts; ++e) total += r.load[first + e];
      for (std::size_t e = 0; e < experts; ++e)
        map.values.push_back(total > 0 ? static_cast<float>(static_cast<double>(r.load[first + e] * facts.model.n_routed_experts) /
                                                            static_cast<double>(total))
                                       : std::numeric_limits<float>::quiet_NaN());
    }
  }
  return map;
}

void add_figures(formats::Page& page, const RunFacts& facts, const History& h) {
  std::vector<formats::KeyFigure> figures;
  if (!h.evaluations.empty()) {
    const EvaluationRecord& e = h.evaluations.back();
    figures.push_back({"held-out loss", fmt::format("{:.4f}", e.nats_per_char), "nats per character"});
    figures.push_back({"held-out loss", fmt::format("{:.4f}", e.bits_per_byte), "bits per byte"});
    if (facts.model.num_nextn_predict_layers > 0)
      figures.push_back({"MTP acceptance", fmt::format("{:.1f}", 100 * e.mtp_acceptance), "% of held-out tokens"});
  }
  if (!h.steps.empty()) {
    const StepRecord& s = h.steps.back();
    figures.push_back({"training loss", fmt::format("{:.4f}", s.loss), "nats per token"});
    const double seconds = h.training_seconds();
    if (seconds > 0) figures.push_back({"throughput", fmt::format("{:.0f}", static_cast<double>(s.tokens) / seconds), "tokens per second"});
    if (s.share_of_ceiling > 0)
      figures.push_back({"arithmetic", fmt::format("{:.0f}", 100 * s.share_of_ceiling), "% of the machine's ceiling"});
  }
  page.key_figures(figures);
}

void add_charts(formats::Page& page, const RunFacts& facts, const History& h) {
  LineChart loss = chart("Loss", "nats per token");
  add_smoothed(loss, h, "training", &StepRecord::loss);
  if (!h.evaluations.empty()) loss.series.push_back(of(h, "held out", &EvaluationRecord::nats_per_token));
  page.add(loss);
  if (facts.model.num_nextn_predict_layers > 0) {
    LineChart mtp = chart("MTP loss", "nats per token");
    add_smoothed(mtp, h, "training", &StepRecord::mtp_loss);
    if (!h.evaluations.empty()) mtp.series.push_back(of(h, "held out", &EvaluationRecord::mtp_loss));
    page.add(mtp);
    LineChart acceptance = chart("MTP acceptance", "share of tokens");
    acceptance.from_zero = true;
    add_smoothed(acceptance, h, "training", &StepRecord::mtp_acceptance);
    if (!h.evaluations.empty()) acceptance.series.push_back(of(h, "held out", &EvaluationRecord::mtp_acceptance));
    page.add(acceptance);
  }
  LineChart norm = chart("Gradient norm", "before clipping");
  norm.log_y = true;
  add_smoothed(norm, h, "norm", &StepRecord::grad_norm);
  page.add(norm);
  LineChart rate = chart("Learning rate", "");
  rate.from_zero = true;
  rate.series.push_back(of(h, "rate", &StepRecord::learning_rate));
  page.add(rate);
  LineChart speed = chart("Throughput", "tokens per second");
  speed.from_zero = true;
  add_smoothed(speed, h, "tokens/s", &StepRecord::tokens_per_s);
  page.add(speed);
  if (facts.model.n_routed_experts == 0) return;
  LineChart imbalance = chart("Load imbalance", "busiest expert × the even load");
  add_smoothed(imbalance, h, "worst layer", &StepRecord::imbalance);
  page.add(imbalance);
  if (const formats::HeatMap map = load_map(facts, h); !map.x.empty()) page.add(map);
}

}  // namespace

std::string report_html(const RunFacts& facts, const History& h, bool finished) {
  const std::int64_t step = h.steps.empty() ? 0 : h.steps.back().step;
  formats::Page page(facts.run.output.dir,
                     fmt::format("{:.1f} million parameters · {} · step {} of {}{}", static_cast<double>(facts.parameters) / 1e6,
                                 facts.machine, step, facts.run.train.steps, finished ? "" : " · running"));
  add_figures(page, facts, h);
  add_charts(page, facts, h);
  if (!h.events.empty()) {
    page.heading("Events");
    constexpr std::size_t kMost = 200;
    std::vector<std::vector<std::string>> rows;
    for (std::size_t i = h.events.size() > kMost ? h.events.size() - kMost : 0; i < h.events.size(); ++i)
      rows.push_back({h.events[i].text, fmt::format("{}", h.events[i].step)});
    page.table({"what", "step"}, rows);
  }
  page.heading("Memory");
  page.code(describe(facts.memory));
  page.heading("Run file");
  page.code(to_toml(facts.run));
  return page.html(finished ? 0 : static_cast<int>(facts.run.output.report_seconds));
}

}  // namespace finback::train
