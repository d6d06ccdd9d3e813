// All ranks of a job: the processes that a launcher started, or threads of this one.
#pragma once

#include "comm/communicator.h"

#include <functional>

namespace finback::comm {

// Whether a launcher started this process as one of several. Throws Error(usage) as launcher() does.
bool under_launcher();

// Runs body on every rank: under a launcher on this thread, as one of its processes; else on `ranks` threads, as run_threads does.
// Under a launcher the first rank of the job that fails prints its error, and every rank throws Reported.
// Throws Error(usage) when `ranks` threads (> 1) are asked for under a launcher.
void run_ranks(int ranks, const Options& options, const std::function<void(Communicator&)>& body);

}  // namespace finback::comm
