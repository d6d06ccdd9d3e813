// Weights from one floating-point type into another, rounding to nearest.
#pragma once

#include "core/tensor.h"

#include <cstdint>

namespace finback::formats {

// from: f64, f32, bf16 or f16; to: f64, f32 or bf16. The ranges must not overlap, unless the types are equal and the ranges too.
void convert_weights(core::DType from, const void* in, core::DType to, void* out, std::int64_t n);

}  // namespace finback::formats
