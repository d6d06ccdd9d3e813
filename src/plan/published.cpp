#include "plan/published.h"

#include <algorithm>

namespace finback::plan {

using parallel::ScheduleKind;

std::optional<Published> published(ScheduleKind kind, int ranks, int micro_batches, const Durations& d) {
  if (d.transfer > 0) return std::nullopt;
  const int stages = parallel::stages_of(kind, ranks), half = stages / 2;
  const double f = d.forward, b = d.backward(), w = d.backward_weight;
  switch (kind) {
    case ScheduleKind::one_f_one_b:
      return Published{(stages - 1) * (f + b), std::min(stages, micro_batches)};
    case ScheduleKind::zb1p:
      if (micro_batches < stages || w > f || w > d.backward_input) return std::nullopt;
      return Published{(stages - 1) * (f + b - 2 * w), stages};
    case ScheduleKind::dualpipe:
    case ScheduleKind::dualpipev:
      if (micro_batches < 2 * ranks || f != d.backward_input || f != w) return std::nullopt;
      return Published{(half - 1) * (d.paired() + b - 3 * w), stages + 1};
  }
  return std::nullopt;
}

}  // namespace finback::plan
