// What this machine can reach: the roofs under which every other figure is read. Of the instruction set in use (kernels::best()): the
// fastest that runs, unless FINBACK_ISA names another.
#pragma once

#include "core/arena.h"
#include "core/team.h"

#include <cstdint>
#include <functional>

namespace finback::measure {

// Of all threads of a team together; the best of many short runs, because what disturbs a run only ever slows it.
struct Ceiling {
  double fp32_gflops = 0, bf16_gflops = 0, int8_gops = 0;  // 10^9 operations a second, 2 a multiply-add
  double memory_gb_per_s = 0;                              // reads of what no cache holds, from huge pages
  double cache_gb_per_s = 0;                               // reads of 4 MiB a thread, again and again
};

// Takes about `seconds`, and some tenths of a second more to touch the memory.
Ceiling ceiling(core::Team& team, double seconds);

// Bytes that the caches cannot hold together, twice the last one's size, though never more than a quarter of the memory that is free.
std::int64_t beyond_caches();

// The best rate, in 10^9 a second, of run(), which returns the amount done, again and again for about `seconds`.
double best_rate(double seconds, const std::function<double()>& run);

// One of the rates by itself, for a roof beside every measurement: no memory is touched.
enum class Rate { fp32, bf16, int8 };
double ceiling_of(core::Team& team, Rate rate, double seconds);

// What a function that does next to nothing with its operands moves: bytes that it only reads, that it reads and writes in place,
// and that it only writes.
struct Traffic {
  std::int64_t read = 0, updated = 0, written = 0;
  std::int64_t footprint() const { return read + updated + written; }
  std::int64_t moved() const { return footprint() + updated; }
};

// The roof over such a function: the same traffic, in tasks of the size that kernels have, over memory of the same size, so that it
// comes from the cache or the memory that the function's operands come from.
class TrafficCeiling {
 public:
  TrafficCeiling(core::Team& team, const Traffic& traffic);
  // Moves it again and again for about `seconds` and returns the best rate, in 10^9 bytes moved a second.
  double rate(double seconds);
  // Where a working set of that size lies in this machine as the system describes it: "L2", "L3" or "memory".
  const char* level() const;

 private:
  core::Team& team_;
  Traffic task_;  // of one task; whole lines of every part
  std::int64_t tasks_, next_ = 0;
  std::size_t turn_ = 0;
  core::Arena arena_;
  std::byte *read_, *updated_, *written_;
};

}  // namespace finback::measure
