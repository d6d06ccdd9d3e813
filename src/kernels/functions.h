// The functions of the table by name, in its order: FB_FUNCTIONS(X) is X(linear_forward) X(linear_backward_input) … .
#pragma once

#include "kernels/kernels.h"

#define FB_FUNCTIONS(X)       \
  X(linear_forward)           \
  X(linear_slices)            \
  X(linear_backward_input)    \
  X(linear_backward_weight)   \
  X(packed_bytes)             \
  X(pack_weights)             \
  X(quantize_rows)            \
  X(quantize_columns)         \
  X(quantize_blocks)          \
  X(dequantize_rows)          \
  X(dequantize_blocks)        \
  X(encode_e5m6)              \
  X(decode_e5m6)              \
  X(encode_logfmt)            \
  X(decode_logfmt)            \
  X(scaled_forward)           \
  X(scaled_backward_input)    \
  X(scaled_backward_weight)   \
  X(attention_forward)        \
  X(attention_backward)       \
  X(latent_attention)         \
  X(rms_norm_forward)         \
  X(rms_norm_backward_input)  \
  X(rms_norm_backward_weight) \
  X(rope)                     \
  X(swiglu_forward)           \
  X(swiglu_backward)          \
  X(gate_forward)             \
  X(balance_forward)          \
  X(gate_backward)            \
  X(gather_rows)              \
  X(combine_rows)             \
  X(embedding_forward)        \
  X(embedding_backward)       \
  X(cross_entropy)            \
  X(adamw)                    \
  X(sum_squares)              \
  X(add)                      \
  X(convert)

namespace finback::kernels {

#define FB_ONE(f) +1
static_assert(sizeof(Table) == sizeof(std::string_view) + (0 FB_FUNCTIONS(FB_ONE)) * sizeof(void (*)()), "a function is missing above");
#undef FB_ONE

}  // namespace finback::kernels
