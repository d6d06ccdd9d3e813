#include "parallel/schedule.h"

#include "core/error.h"
#include "parallel/dualpipe.h"

#include <algorithm>

namespace finback::parallel {
namespace {

using core::Error;
using core::Exit;

constexpr std::int64_t kMaxCells = 1 << 18;

// Stage s first takes as many forwards as there are stages behind it, so that its first gradient comes when the next is due; then one
// forward, one backward in turn. What is alive is what was taken and not given back: PP − s.
std::vector<Action> one_f_one_b(int stage, int stages, int micro_batches) {
  std::vector<Action> list;
  const int ahead = std::min(stages - 1 - stage, micro_batches);
  const auto forward = [&](int m) {
    if (m < micro_batches) list.push_back({.work = Work::forward, .forward = {stage, m}});
  };
  for (int m = 0; m < ahead; ++m) forward(m);
  for (int m = 0; m < micro_batches; ++m) {
    forward(m + ahead);
    list.push_back({.work = Work::backward, .backward = {stage, m}});
  }
  return list;
}

// The same turn, with stage s putting off each backward to the weights by s micro-batches. Every stage then keeps PP alive, as the first
// one of 1F1B does, the gradient reaches the stage before sooner by W, and the weights fill the gaps at the end.
std::vector<Action> zb1p(int stage, int stages, int micro_batches) {
  std::vector<Action> list;
  const int ahead = std::min(stages - 1 - stage, micro_batches);
  const auto forward = [&](int m) {
    if (m < micro_batches) list.push_back({.work = Work::forward, .forward = {stage, m}});
  };
  const auto weight = [&](int m) {
    if (m >= 0 && m < micro_batches) list.push_back({.work = Work::backward_weight, .backward = {stage, m}});
  };
  for (int m = 0; m < ahead; ++m) forward(m);
  for (int m = 0; m < micro_batches; ++m) {
    forward(m + ahead);
    list.push_back({.work = Work::backward_input, .backward = {stage, m}});
    weight(m - stage);
  }
  for (int m = std::max(0, micro_batches - stage); m < micro_batches; ++m) weight(m);
  return list;
}

void require_exists(ScheduleKind kind, int ranks, int micro_batches) {
  const std::string where = fmt::format("{}, {} ranks (parallel.pp), {} micro-batches", name_of(kind), ranks, micro_batches);
  if (ranks < 1 || micro_batches < 1)
    throw Error(Exit::usage, "a schedule needs at least one rank and one micro-batch", where, "use 1 or more of each");
  if (std::int64_t{stages_of(kind, ranks)} * micro_batches > kMaxCells)
    throw Error(Exit::usage, fmt::format("more than {} micro-batches times stages", kMaxCells), where, "use larger micro-batches");
  if (kind != ScheduleKind::dualpipe) return;
  if (ranks % 2 != 0)
    throw Error(Exit::usage, "DualPipe needs an even number of ranks: stage s and stage PP − 1 − s share one, and neither may be alone",
                where, "use an even parallel.pp, or parallel.schedule = \"dualpipev\", which takes any");
  if (micro_batches % 2 != 0)
    throw Error(Exit::usage, "DualPipe needs an even number of micro-batches: half of them enters at either end", where,
                "change train.global_batch or train.micro_batch so that a rank has an even number, or use \"dualpipev\"");
}

}  // namespace

std::string_view name_of(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::one_f_one_b:
      return "1f1b";
    case ScheduleKind::zb1p:
      return "zb1p";
    case ScheduleKind::dualpipe:
      return "dualpipe";
    case ScheduleKind::dualpipev:
      return "dualpipev";
  }
  FB_CHECK(false, "{}", static_cast<int>(kind));
}

ScheduleKind schedule_kind_of(std::string_view name) {
  for (const ScheduleKind kind : kScheduleKinds)
    if (name == name_of(kind)) return kind;
  throw Error(Exit::usage, fmt::format("no schedule \"{}\"", name), "parallel.schedule", "use 1f1b, zb1p, dualpipe or dualpipev");
}

int stages_of(ScheduleKind kind, int ranks) { return kind == ScheduleKind::dualpipev ? 2 * ranks : ranks; }

std::vector<int> stages_on(ScheduleKind kind, int ranks, int rank) {
  const int last = stages_of(kind, ranks) - 1;
  if (kind == ScheduleKind::one_f_one_b || kind == ScheduleKind::zb1p) return {rank};
  return {std::min(rank, last - rank), std::max(rank, last - rank)};
}

int Schedule::direction_of(const Cell& cell) const {
  switch (kind) {
    case ScheduleKind::dualpipe:
      return cell.micro_batch >= micro_batches / 2;
    case ScheduleKind::dualpipev:
      return cell.stage >= ranks;
    default:
      return 0;
  }
}

int Schedule::rank_of(const Cell& cell) const { return direction_of(cell) == 0 ? cell.stage : stages - 1 - cell.stage; }

Products Schedule::needs(const Action& a) const {
  Products all;
  if (a.forward.stage > 0) all.add({false, {a.forward.stage - 1, a.forward.micro_batch}});
  if (a.work == Work::backward_weight) {
    all.add({true, a.backward});
  } else if (a.work != Work::forward) {
    all.add({false, a.backward});
    if (a.backward.stage + 1 < stages) all.add({true, {a.backward.stage + 1, a.backward.micro_batch}});
  }
  return all;
}

Products Schedule::makes(const Action& a) const {
  Products all;
  if (a.work == Work::forward || a.work == Work::pair) all.add({false, a.forward});
  if (a.work != Work::forward && a.work != Work::backward_weight) all.add({true, a.backward});
  return all;
}

int peak_activations(std::span<const Action> actions) {
  int alive = 0, peak = 0;
  for (const Action& a : actions) {
    if (a.work == Work::forward || a.work == Work::pair) peak = std::max(peak, ++alive);
    if (a.work != Work::forward && a.work != Work::backward_input) --alive;
  }
  return peak;
}

Schedule make_schedule(ScheduleKind kind, int ranks, int micro_batches) {
  require_exists(kind, ranks, micro_batches);
  Schedule schedule{.kind = kind, .ranks = ranks, .micro_batches = micro_batches, .stages = stages_of(kind, ranks)};
  for (int rank = 0; rank < ranks; ++rank) {
    switch (kind) {
      case ScheduleKind::one_f_one_b:
        schedule.actions.push_back(one_f_one_b(rank, ranks, micro_batches));
        break;
      case ScheduleKind::zb1p:
        schedule.actions.push_back(zb1p(rank, ranks, micro_batches));
        break;
      case ScheduleKind::dualpipe:
        schedule.actions.push_back(dualpipe(rank, ranks, micro_batches));
        break;
      case ScheduleKind::dualpipev:
        schedule.actions.push_back(dualpipev(rank, ranks, micro_batches));
        break;
    }
  }
  return schedule;
}

}  // namespace finback::parallel
