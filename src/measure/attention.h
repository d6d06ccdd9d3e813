// Speed of attention's two halves, beside the machine's ceiling measured in the same breath.
#pragma once

#include "kernels/kernels.h"
#include "measure/speed.h"

#include <cstdint>

namespace finback::measure {

// `sequences` of `length` tokens, each seeing itself alone.
struct Attention {
  std::int64_t sequences = 8, length = 512;
  kernels::AttentionShape shape{.heads = 8, .nope = 64, .rope = 32, .value = 64, .scale = 0.1};
  core::DType dtype = core::DType::bf16;  // f32 or bf16
  bool backward = false;
};

// What a call is counted as: forward, the two products over the causal half of the scores, 2 · (key + value) · length² / 2 a
// head; backward 2.5 times that, as is the custom (Dao, arXiv 2307.08691, §4.1).
double flops(const Attention& a);

Speed attention(const kernels::Table& kernels, core::Team& team, const Attention& a, double seconds);

}  // namespace finback::measure
