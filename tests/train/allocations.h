#pragma once

#include <functional>

namespace finback::train {

// Calls of operator new, by any thread of the program, while `f` runs.
long allocations_during(const std::function<void()>& f);

// The n-th call of operator new from now on, by any thread, throws std::bad_alloc, once; whether that has happened.
void fail_allocation(long n);
bool allocation_failed();

}  // namespace finback::train
