// What this machine can reach: the roofs under which every other figure is read.
#pragma once

#include "core/team.h"

namespace finback::measure {

// Of all threads of a team together; the best of many short runs, because what disturbs a run only ever slows it.
struct Ceiling {
  double fp32_gflops = 0, bf16_gflops = 0, int8_gops = 0;  // 10^9 operations a second, 2 a multiply-add
  double memory_gb_per_s = 0;                              // reads of 128 MiB a thread, at least 256 MiB, from huge pages
  double cache_gb_per_s = 0;                               // reads of 4 MiB a thread, again and again
};

// Takes about `seconds`, and some tenths of a second more to touch the memory. Measures the fastest instruction set that runs.
Ceiling ceiling(core::Team& team, double seconds);

// One of the rates by itself, for a roof beside every measurement: no memory is touched.
enum class Rate { fp32, bf16, int8 };
double ceiling_of(core::Team& team, Rate rate, double seconds);

}  // namespace finback::measure
