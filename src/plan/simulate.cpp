#include "plan/simulate.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>

namespace finback::plan {

using parallel::Action;
using parallel::Product;
using parallel::Schedule;
using parallel::Work;

namespace {

// When each product was made; NaN: not yet.
class Made {
 public:
  explicit Made(const Schedule& s)
      : micro_batches_(static_cast<std::size_t>(s.micro_batches)),
        at_(2 * static_cast<std::size_t>(s.stages) * micro_batches_, std::nan("")) {}
  double& operator[](const Product& p) {
    const auto stage = static_cast<std::size_t>(2 * p.cell.stage + p.gradient);
    return at_[stage * micro_batches_ + static_cast<std::size_t>(p.cell.micro_batch)];
  }

 private:
  std::size_t micro_batches_;
  std::vector<double> at_;
};

}  // namespace

double Durations::of(const Action& action) const {
  switch (action.work) {
    case Work::forward:
      return forward;
    case Work::backward:
      return backward();
    case Work::backward_input:
      return backward_input;
    case Work::backward_weight:
      return backward_weight;
    case Work::pair:
      return paired();
  }
  FB_CHECK(false, "{}", static_cast<int>(action.work));
}

void check(const Durations& d) {
  const auto good = [](double least, double value) { return std::isfinite(value) && value >= least; };
  if (!(d.forward > 0 && d.backward_input > 0 && d.backward_weight > 0) ||
      !(good(0, d.forward) && good(0, d.backward_input) && good(0, d.backward_weight) && good(0, d.pair) && good(0, d.transfer)))
    throw core::Error(core::Exit::usage, "durations must be finite, and forward and backward above 0",
                      fmt::format("forward {}, backward_input {}, backward_weight {}, pair {}, transfer {}", d.forward, d.backward_input,
                                  d.backward_weight, d.pair, d.transfer),
                      "give times of one unit, such as milliseconds");
}

double Simulation::bubble() const {
  double longest = 0;
  for (const RankUse& r : ranks) longest = std::max(longest, r.idle);
  return longest;
}

int Simulation::peak() const {
  int most = 0;
  for (const RankUse& r : ranks) most = std::max(most, r.peak);
  return most;
}

Simulation simulate(const Schedule& schedule, const std::function<double(const Action&)>& duration, double transfer) {
  const auto ranks = schedule.actions.size();
  Simulation out{.times = std::vector<std::vector<Interval>>(ranks), .ranks = std::vector<RankUse>(ranks)};
  Made made(schedule);

  // Plays rank r's next action if all that it needs is made.
  const auto play = [&](std::size_t r) {
    auto& times = out.times[r];
    if (times.size() == schedule.actions[r].size()) return false;
    const Action& action = schedule.actions[r][times.size()];
    double begin = times.empty() ? 0 : times.back().end;
    for (const Product& p : schedule.needs(action)) {
      const double at = made[p];
      if (std::isnan(at)) return false;
      begin = std::max(begin, schedule.rank_of(p.cell) == static_cast<int>(r) ? at : at + transfer);
    }
    const double end = begin + duration(action);
    for (const Product& p : schedule.makes(action)) made[p] = end;
    times.push_back({begin, end});
    out.length = std::max(out.length, end);
    out.ranks[r].busy += end - begin;
    return true;
  };

  for (bool went_on = true; went_on;) {
    went_on = false;
    for (std::size_t r = 0; r < ranks; ++r)
      while (play(r)) went_on = true;
  }
  for (std::size_t r = 0; r < ranks; ++r) {
    FB_CHECK(out.times[r].size() == schedule.actions[r].size(), "the schedule waits for itself: rank {} stops at action {} of {}", r,
             out.times[r].size(), schedule.actions[r].size());
    out.ranks[r].idle = out.length - out.ranks[r].busy;
    out.ranks[r].peak = parallel::peak_activations(schedule.actions[r]);
  }
  return out;
}

Simulation simulate(const Schedule& schedule, const Durations& durations) {
  check(durations);
  return simulate(
      schedule, [&](const Action& action) { return durations.of(action); }, durations.transfer);
}

}  // namespace finback::plan
