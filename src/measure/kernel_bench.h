// finback bench kernels: every kernel of a training step that is no product, beside the roof that it is under.
#pragma once

#include "core/machine.h"

#include <cstdint>
#include <string>
#include <vector>

namespace finback::measure {

struct KernelBenchOptions {
  std::string model;  // config.json
  std::int64_t batch = 8, seq_len = 512;
  std::string precision = "bf16";  // or fp32
  std::string only;                // kernels whose name holds this; empty: all
  std::vector<int> threads;        // one measurement for each
  double seconds = 0.2;            // for each measurement
};

struct KernelSpeed {
  std::string name, shape;
  int threads = 0;
  double seconds = 0;  // of the fastest call
  double mib = 0;      // its operands
  // The roof that allows less: arithmetic ("bf16" or "fp32", in GFLOPS), or moving the bytes of the operands once, through the part of
  // the machine that holds a working set of that size ("L2", "L3" or "memory", in GB/s). `rate` is in the roof's unit.
  std::string ceiling;
  double rate = 0, ceiling_rate = 0;
  double share() const { return rate / ceiling_rate; }
};

// The best call of each kernel, and the best of its roof, measured in turns.
std::vector<KernelSpeed> bench_kernels(const KernelBenchOptions& options);

}  // namespace finback::measure
