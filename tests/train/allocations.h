#pragma once

#include <functional>

namespace finback::train {

// Calls of operator new, by any thread of the program, while `f` runs.
long allocations_during(const std::function<void()>& f);

}  // namespace finback::train
