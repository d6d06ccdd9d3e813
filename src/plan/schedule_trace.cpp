#include "plan/schedule_trace.h"

#include "formats/trace.h"

#include <fmt/format.h>

namespace finback::plan {
namespace {

using parallel::Work;

constexpr std::string_view kNames[] = {"forward", "backward", "backward_input", "backward_weight", "pair"};

}  // namespace

void write_schedule_trace(const std::string& path, const ScheduleReport& r) {
  formats::TraceWriter writer(path);
  for (std::size_t rank = 0; rank < r.schedule.actions.size(); ++rank) {
    const int process = static_cast<int>(rank);
    writer.name_process(process, fmt::format("rank {}", rank));
    writer.name_thread(process, 0, "forward");
    writer.name_thread(process, 1, "backward");
    for (std::size_t i = 0; i < r.schedule.actions[rank].size(); ++i) {
      const parallel::Action& action = r.schedule.actions[rank][i];
      const auto [begin, end] = r.simulation.times[rank][i];
      for (const Half& half : Halves(action, r.durations))
        writer.add({.name = fmt::format("{}{} on stage {}", letter_of(half.work), half.cell.micro_batch, half.cell.stage),
                    .category = kNames[static_cast<std::size_t>(action.work)],
                    .begin = begin * 1e-3,
                    .duration = (end - begin) * 1e-3,
                    .process = process,
                    .thread = half.work == Work::forward ? 0 : 1});
    }
  }
  writer.commit();
}

}  // namespace finback::plan
