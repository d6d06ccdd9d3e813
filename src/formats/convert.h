// Weights from one floating-point type into another, rounding to nearest.
#pragma once

#include "core/tensor.h"

#include <cstdint>

namespace finback::formats {

// from: f64, f32, bf16 or f16; to: f64, f32 or bf16. The ranges must not overlap, unless the types are equal and the ranges too.
void convert_weights(core::DType from, const void* in, core::DType to, void* out, std::int64_t n);

// How many of n values are NaN or infinite: f64, f32, bf16, f16, e4m3 or e5m2.
std::int64_t count_non_finite(core::DType dtype, const void* values, std::int64_t n);

}  // namespace finback::formats
