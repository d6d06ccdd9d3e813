// Sums over ranks, in rank order.
#pragma once

#include "numerics/bf16.h"

#include <cstdint>
#include <span>

namespace finback::comm {

// y[i] = ((x₀[i] + x₁[i]) + x₂[i]) + …, in FP32. y may be one of the xs.
void sum_in_order(std::span<const float* const> xs, std::span<float> y);
void sum_in_order(std::span<const numerics::bf16* const> xs, std::span<float> y);
void sum_in_order(std::span<const double* const> xs, std::span<double> y);
void sum_in_order(std::span<const std::int64_t* const> xs, std::span<std::int64_t> y);

}  // namespace finback::comm
