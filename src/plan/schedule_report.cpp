#include "plan/schedule_report.h"

#include "core/error.h"
#include "formats/axis.h"

#include <boost/json/array.hpp>

namespace finback::plan {

using formats::short_number;
using parallel::Schedule;
using parallel::ScheduleKind;
using parallel::Work;

namespace {

std::string_view written(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::one_f_one_b:
      return "1F1B";
    case ScheduleKind::zb1p:
      return "ZB1P";
    case ScheduleKind::dualpipe:
      return "DualPipe";
    case ScheduleKind::dualpipev:
      return "DualPipeV";
  }
  FB_CHECK(false, "{}", static_cast<int>(kind));
}

std::string counted(int n, std::string_view what, std::string_view plural = "s") {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : plural);
}

}  // namespace

ScheduleReport report_schedule(ScheduleKind kind, int ranks, int micro_batches, const Durations& durations) {
  ScheduleReport report{.schedule = parallel::make_schedule(kind, ranks, micro_batches), .durations = durations};
  report.simulation = simulate(report.schedule, durations);
  report.published = published(kind, ranks, micro_batches, durations);
  return report;
}

std::string title_of(const ScheduleReport& r) {
  const Schedule& s = r.schedule;
  std::string text = fmt::format("{}: {}", written(s.kind), counted(s.ranks, "rank"));
  if (s.stages != s.ranks) text += fmt::format(", {}", counted(s.stages, "stage"));
  return text + fmt::format(", {}", counted(s.micro_batches, "micro-batch", "es"));
}

std::string summary_of(const ScheduleReport& r) {
  const Simulation& sim = r.simulation;
  std::string text = fmt::format("Step {}, of which a rank is idle for {} ({:.1f} %); at most {} alive.", short_number(sim.length),
                                 short_number(sim.bubble()), 100 * sim.bubble() / sim.length, counted(sim.peak(), "activation"));
  if (r.published) text += fmt::format(" Published: {} and {}.", short_number(r.published->bubble), r.published->peak);
  return text;
}

Directions directions_of(const Schedule& s) {
  if (s.kind == ScheduleKind::dualpipe)
    return {fmt::format("micro-batches 0–{}, from rank 0 to rank {}", s.micro_batches / 2 - 1, s.ranks - 1),
            fmt::format("{}–{}, from rank {} to rank 0", s.micro_batches / 2, s.micro_batches - 1, s.ranks - 1)};
  if (s.kind == ScheduleKind::dualpipev)
    return {fmt::format("stages 0–{}, from rank 0 to rank {}", s.ranks - 1, s.ranks - 1),
            fmt::format("stages {}–{}, on the way back", s.ranks, s.stages - 1)};
  return {};
}

boost::json::object to_json(const ScheduleReport& r) {
  const Simulation& sim = r.simulation;
  boost::json::object out{{"kind", name_of(r.schedule.kind)},
                          {"ranks", r.schedule.ranks},
                          {"micro_batches", r.schedule.micro_batches},
                          {"stages", r.schedule.stages},
                          {"durations",
                           {{"forward", r.durations.forward},
                            {"backward_input", r.durations.backward_input},
                            {"backward_weight", r.durations.backward_weight},
                            {"pair", r.durations.paired()},
                            {"transfer", r.durations.transfer}}},
                          {"length", sim.length},
                          {"bubble", sim.bubble()},
                          {"bubble_share", sim.bubble() / sim.length},
                          {"peak", sim.peak()}};
  out["published"] = r.published ? boost::json::value{{"bubble", r.published->bubble}, {"peak", r.published->peak}} : nullptr;
  boost::json::array ranks;
  for (const RankUse& use : sim.ranks) ranks.push_back({{"busy", use.busy}, {"idle", use.idle}, {"peak", use.peak}});
  out["per_rank"] = std::move(ranks);
  return out;
}

char letter_of(Work work) {
  switch (work) {
    case Work::forward:
      return 'F';
    case Work::backward:
      return 'B';
    case Work::backward_input:
      return 'I';
    case Work::backward_weight:
      return 'W';
    case Work::pair:
      break;
  }
  FB_CHECK(false, "{}", static_cast<int>(work));
}

Halves::Halves(const parallel::Action& action, const Durations& d) {
  if (action.work == Work::pair) {
    const double forward = d.forward / (d.forward + d.backward());
    at_ = {Half{Work::forward, action.forward, forward}, Half{Work::backward, action.backward, 1 - forward}};
    count_ = 2;
  } else {
    at_[0] = {action.work, action.work == Work::forward ? action.forward : action.backward};
  }
}

}  // namespace finback::plan
