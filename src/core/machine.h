// What this machine offers to this process. A container's limits count.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace finback::core {

struct Machine {
  std::string cpu;                    // the model's name, empty when the system does not tell
  int cores = 1;                      // that this process may run on
  std::int64_t memory_bytes = 0;      // in all
  std::int64_t available_bytes = 0;   // that could be taken now without swapping
  std::int64_t last_cache_bytes = 0;  // the last level of cache, shared by cores; 0 when the system does not tell
  std::string huge_pages;             // transparent ones: always, madvise, never; empty when the system does not tell
};

// Reads /proc, /sys and the scheduler's mask; never fails: what cannot be read keeps its default.
Machine this_machine();

// Throws Error(usage) with both sizes if the machine has less than `bytes` to give.
void require_memory(std::int64_t bytes, std::string_view what);

}  // namespace finback::core
