// What `finback plan schedule` says: a schedule, played by the clock, beside the published formulas. The three pictures (text, SVG,
// trace) are drawn from it.
#pragma once

#include "plan/published.h"
#include "plan/simulate.h"

#include <boost/json/object.hpp>

#include <optional>
#include <string>

namespace finback::plan {

struct ScheduleReport {
  parallel::Schedule schedule;
  Durations durations;
  Simulation simulation;
  std::optional<Published> published;
};

// Throws Error(usage) where there is no such schedule or the durations are none.
ScheduleReport report_schedule(parallel::ScheduleKind kind, int ranks, int micro_batches, const Durations& durations);

// "DualPipe: 8 ranks, 20 micro-batches"
std::string title_of(const ScheduleReport& report);
// "Step 66, of which a rank is idle for 6 (9.1 %); at most 9 activations alive. Published: 6 and 9."
std::string summary_of(const ScheduleReport& report);
// What the second colour, and in text the small letters, stand for. Empty where there is one direction.
struct Directions {
  std::string first, second;
};
Directions directions_of(const parallel::Schedule& schedule);

// kind, ranks, micro_batches, stages, durations, length, bubble, bubble_share (of the length), peak, published (bubble and peak,
// or null), per_rank (busy, idle, peak). Times in the unit of the durations, peaks in activations of a stage.
boost::json::object to_json(const ScheduleReport& report);

// The letter of an action: F forward, B backward, I backward to the input, W to the weights; of a pair, one for each half.
char letter_of(parallel::Work work);

// A half of an action as it is drawn: a pair's are forward and backward, the others have one.
struct Half {
  parallel::Work work;
  parallel::Cell cell;
  double share = 1;  // of the action's time
};
class Halves {
 public:
  explicit Halves(const parallel::Action& action, const Durations& durations);
  const Half* begin() const { return at_.data(); }
  const Half* end() const { return at_.data() + count_; }

 private:
  std::array<Half, 2> at_;
  int count_ = 1;
};

}  // namespace finback::plan
