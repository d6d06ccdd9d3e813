// A rank of a run other than the first: it does what the first one says, with its own share of data and state.
#pragma once

#include "train/run.h"

namespace finback::train {

// Until the first rank ends the run. Throws core::Error.
void run_worker(const RunConfig& run, const RunOptions& options);

}  // namespace finback::train
