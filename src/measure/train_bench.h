// finback bench train: how fast a model trains here, beside the machine's ceiling, and the memory it takes.
#pragma once

#include "core/machine.h"
#include "measure/step_parts.h"
#include "parallel/expert_exchange.h"
#include "parallel/mesh.h"

#include <cstdint>
#include <optional>
#include <string>

namespace finback::measure {

struct TrainBenchOptions {
  std::string model;  // config.json
  std::int64_t batch = 8, micro_batch = 0 /* 0: batch ÷ dp */, seq_len = 512, steps = 5;
  std::string precision = "bf16", activation_storage = "bf16";
  bool mtp = true;
  int threads = core::this_machine().cores;  // of all ranks of this machine together
  parallel::Layout layout;                   // more ranks than one: as threads of this process, or those of a launcher
  std::string schedule = "1f1b";
  comm::Options comm;
  std::string trace;  // a file for the spans of every step; empty: none are recorded
};

struct TrainBench {
  std::string isa;
  bool mtp = false;                                  // whether MTP modules were trained
  double tokens_per_s = 0, tokens_per_s_median = 0;  // of the fastest step, because what disturbs a step only ever slows it
  double model_flops_per_token = 0;                  // model/flops.h
  double ceiling_gflops = 0, share_of_ceiling = 0;   // of tokens_per_s, in the precision at hand; the higher ceiling of before and after
  std::int64_t peak_rss_bytes = 0, accounted_bytes = 0;  // of the ranks in this process
  // Kept from forward to backward of one micro-batch: what was taken, and the sum of the list in model/kept.h.
  std::int64_t activation_bytes = 0, activation_bytes_computed = 0;
  // Of the first rank and the steps measured, in seconds: the exchange of spread experts' tokens (0 without), and all that moved messages.
  parallel::ExchangeTimes exchange;
  double copying = 0;
  std::string memory;  // by kind, of the first rank
  StepParts parts;     // of the fastest step, with a trace
};

// Trains on random tokens with the whole recipe; one step to warm up, then `steps`. Nothing in a process that does not have the first rank.
std::optional<TrainBench> bench_train(const TrainBenchOptions& options);

}  // namespace finback::measure
