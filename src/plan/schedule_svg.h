// A schedule as an SVG picture that stands alone, after the figure in the DeepSeek-V3 report: a row a rank, a colour a kind of
// action, micro-batch numbers, light and dark for the two directions, a frame around each overlapped pair.
#pragma once

#include "plan/schedule_report.h"

namespace finback::plan {

std::string draw_svg(const ScheduleReport& report);

}  // namespace finback::plan
