// Ranks as threads of one process, for laptops and tests: messages are copied once, from the sender's buffer into the receiver's.
#pragma once

#include "comm/communicator.h"

#include <functional>

namespace finback::comm {

// Runs body on `ranks` threads, each with a communicator of all of them, and returns when all have come to its end. When one throws, the
// others' calls throw Reported, and the first one's exception is thrown here. A rank that stalls ends the others after the timeout, with an
// Error(distributed) that names it; a thread cannot be ended from outside, so where it does not come back for another timeout, the
// error is printed and the process ended with that code.
void run_threads(int ranks, const Options& options, const std::function<void(Communicator&)>& body);

}  // namespace finback::comm
