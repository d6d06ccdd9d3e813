// A schedule as text: a line a rank, time to the right, in bands as wide as the terminal.
#pragma once

#include "plan/schedule_report.h"

namespace finback::plan {

// columns: width of a band, at least 40. colour: ANSI backgrounds, for a terminal.
std::string draw_text(const ScheduleReport& report, int columns, bool colour);

}  // namespace finback::plan
