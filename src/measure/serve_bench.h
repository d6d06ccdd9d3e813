// finback bench decode and prefill: how fast the engine answers, beside what the memory or the arithmetic of this machine allows.
#pragma once

#include "core/machine.h"

#include <cstdint>
#include <string>
#include <vector>

namespace finback::measure {

struct ServeBenchOptions {
  std::string model;                             // a folder with weights
  std::vector<std::int64_t> batch = {1, 8, 64};  // answers at a time (decode): one measurement for each
  std::vector<std::int64_t> context = {512};     // tokens before them (decode), or of a prompt (prefill): one for each
  int threads = core::this_machine().cores;
  double seconds = 3;  // for each measurement
};

// One step: a token of every answer, or a prompt. The bound is the larger of two times: what a step reads (weights that any of its tokens
// meets, and the cache) at the rate at which this machine reads as much, and its operations at the arithmetic ceiling.
struct ServeSpeed {
  std::int64_t batch = 0, context = 0, steps = 0;
  double seconds = 0, median_seconds = 0;                 // of the fastest step and of the middle one
  double tokens_per_s = 0;                                // at the middle one
  double weight_bytes = 0, cache_bytes = 0, experts = 0;  // read by a step; experts of all layers
  double gflop = 0;
  double gb_per_s = 0, ceiling_gb_per_s = 0, ceiling_gflops = 0;  // reached by the middle step; the roofs
  double bound_seconds() const;
  double share_of_bandwidth() const { return gb_per_s / ceiling_gb_per_s; }
  double share_of_ceiling() const { return bound_seconds() / median_seconds; }
};

std::vector<ServeSpeed> bench_decode(const ServeBenchOptions& options);
std::vector<ServeSpeed> bench_prefill(const ServeBenchOptions& options);  // batch is not read

}  // namespace finback::measure
