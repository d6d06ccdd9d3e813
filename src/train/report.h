// report.html: the whole run on one self-contained page.
#pragma once

#include "model/config.h"
#include "train/history.h"
#include "train/run_config.h"
#include "train/state.h"

#include <string>

namespace finback::train {

// What is the same for every writing of the report.
struct RunFacts {
  RunConfig run;
  model::ModelConfig model;
  std::int64_t parameters = 0;
  MemoryByKind memory;
  std::string machine;  // "avx512bf16, 2 threads"
};

std::string report_html(const RunFacts& facts, const History& history, bool finished);

}  // namespace finback::train
