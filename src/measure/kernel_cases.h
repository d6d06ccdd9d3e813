// The kernels of a training step other than the products (gemm.h), each at the shape that a model gives it.
#pragma once

#include "core/arena.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/run.h"

#include <functional>
#include <string>
#include <vector>

namespace finback::measure {

struct KernelCase {
  std::string name, shape;  // of the table's function; in words
  std::function<void(const kernels::Context&)> call;
  core::Mat in_place = {};          // what it both reads and writes, if that is an operand of the size of the others
  std::int64_t in_place_count = 1;  // so many of them
};

// Takes the operands from `arena`, which may be counting, and fills them.
std::vector<KernelCase> kernel_cases(core::Arena& arena, const model::ModelConfig& config, model::Precision precision,
                                     std::int64_t sequences, std::int64_t length);

}  // namespace finback::measure
