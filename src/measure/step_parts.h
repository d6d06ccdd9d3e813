// Where a training step goes: its spans, summed by kernel and by the phase that called it.
#pragma once

#include "core/spans.h"

#include <cstdint>
#include <string>
#include <vector>

namespace finback::measure {

struct StepPart {
  std::string phase, name;  // the span around it, and its own
  std::int64_t calls = 0;
  double seconds = 0;
  core::Work work;
};

struct StepParts {
  double seconds = 0;           // of the step
  std::vector<StepPart> parts;  // spans that hold no other, the most time first
  double named() const;         // Σ of their seconds: the rest of the step has no name
};

// Of the fastest span "step" that is held whole; empty when none is.
StepParts fastest_step(const core::Spans& spans);

// A table: the share of the step, calls, rates. Parts below half a percent are one line, what has no name is the last.
std::string describe(const StepParts& step);

}  // namespace finback::measure
