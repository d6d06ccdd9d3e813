// The lists of DualPipe and DualPipeV, which are one: a rank has two streams of work, and the eight steps of the published code
// (deepseek-ai/DualPipe, dualpipe.py and dualpipev.py) say how they alternate. What the streams are is all that differs.
#pragma once

#include "parallel/schedule.h"

namespace finback::parallel {

// Of one rank. ranks and micro_batches are even.
std::vector<Action> dualpipe(int rank, int ranks, int micro_batches);
std::vector<Action> dualpipev(int rank, int ranks, int micro_batches);

}  // namespace finback::parallel
