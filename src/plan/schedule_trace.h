// A simulated schedule as a trace for chrome://tracing and ui.perfetto.dev, in the form of the trainer's own: a process a rank, with one
// line for forward and one for backward, on both of which a pair stands. A unit of time is shown as a millisecond.
#pragma once

#include "plan/schedule_report.h"

namespace finback::plan {

void write_schedule_trace(const std::string& path, const ScheduleReport& report);  // throws Error(io)

}  // namespace finback::plan
