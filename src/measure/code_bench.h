// finback bench quantize: every function between plain numbers and codes with scales, beside a copy of as many bytes.
#pragma once

#include "kernels/kernels.h"

#include <cstdint>
#include <string>
#include <vector>

namespace finback::measure {

struct CodeBenchOptions {
  std::vector<std::int64_t> rows = {32, 4096};  // one measurement for each: by default what L2 holds, and what no cache holds
  std::int64_t cols = 7168;
  std::string only;  // functions whose name holds this; empty: all
  int threads = 1;
  double seconds = 0.3;  // for each measurement
};

struct CodeSpeed {
  std::string name, from, to;  // of the table's function; what it reads and writes
  std::int64_t rows = 0, cols = 0;
  int repetitions = 0;                          // of turns in which the function and the copy were measured
  double elements_per_s = 0;                    // the median over turns of a turn's best call
  double gb_per_s = 0;                          // 10^9 bytes of operands a second, scales included, each read or written once
  double copy_gb_per_s = 0, share_of_copy = 0;  // of a copy that reads and writes as many bytes together; medians
  std::string level;                            // where operands of that size lie: "L2", "L3" or "memory"
};

std::vector<CodeSpeed> bench_codes(const kernels::Table& table, const CodeBenchOptions& options);

}  // namespace finback::measure
