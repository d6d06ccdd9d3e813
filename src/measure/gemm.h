// Speed of one linear layer's products, beside the machine's ceiling measured in the same breath.
#pragma once

#include "core/tensor.h"
#include "kernels/kernels.h"
#include "measure/speed.h"

#include <cstdint>

namespace finback::measure {

enum class Pass { forward, backward_input, backward_weight };

// The layer y_MN = x_MK · w_NKᵀ, whatever the pass; with groups, m is the rows of all of them, spread evenly.
struct Gemm {
  std::int64_t m = 0, n = 0, k = 0, groups = 1;
  core::DType dtype = core::DType::bf16;  // f32 or bf16
  Pass pass = Pass::forward;
  bool cold = false;  // every call finds the weights in memory, not in the caches: decoding's case
};

struct GemmSpeed : Speed {
  double gb_per_s = 0;  // inputs read and output written (and read where it is added to) once, at the median
};

// Calls the product for about `seconds`, the ceiling being measured for as long between the calls.
GemmSpeed gemm(const kernels::Table& kernels, core::Team& team, const Gemm& shape, double seconds);

}  // namespace finback::measure
