#pragma once

#include <chrono>

namespace finback::core {

// Monotonic, in seconds from an arbitrary start.
inline double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace finback::core
