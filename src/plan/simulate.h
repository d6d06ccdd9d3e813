// The planner's reader of a schedule: a clock and a memory high-water mark over the list of actions, as the trainer would play it. A
// rank takes its actions in order; each begins when the rank is free and what it needs is there.
#pragma once

#include "parallel/schedule.h"

#include <functional>
#include <vector>

namespace finback::plan {

// How long one micro-batch takes on one stage, in any one unit. The default pair gains nothing by its overlap.
struct Durations {
  double forward = 1, backward_input = 1, backward_weight = 1;
  double pair = 0;      // 0: forward + backward_input + backward_weight
  double transfer = 0;  // from the end of an action until its product is at another rank; hidden behind whatever that rank does

  double backward() const { return backward_input + backward_weight; }
  double paired() const { return pair > 0 ? pair : forward + backward(); }
  double of(const parallel::Action& action) const;
};

// Throws Error(usage) unless forward and the backwards are above 0, the others not below, and all finite.
void check(const Durations& durations);

struct Interval {
  double begin = 0, end = 0;
};

struct RankUse {
  double busy = 0, idle = 0;  // they add up to the length
  int peak = 0;               // parallel::peak_activations
};

struct Simulation {
  double length = 0;
  std::vector<std::vector<Interval>> times;  // [ranks][actions]
  std::vector<RankUse> ranks;

  double bubble() const;  // the longest time that any rank stands idle
  int peak() const;       // of any rank
};

// `duration`: of an action, for stages that differ; the list is the same. A list that waits for itself is a bug and aborts.
Simulation simulate(const parallel::Schedule& schedule, const std::function<double(const parallel::Action&)>& duration,
                    double transfer = 0);
Simulation simulate(const parallel::Schedule& schedule, const Durations& durations = {});

}  // namespace finback::plan
