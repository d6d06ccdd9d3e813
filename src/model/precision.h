// What a run computes in and what it keeps: its types, the switches of the FP8 scheme, the activation store.
#pragma once

#include "kernels/kernels.h"

#include <optional>
#include <string_view>

namespace finback::model {

// FP8 training [V3 §3.3]: the linear layers of attention, feed-forwards and experts multiply codes, in all three products. The
// defaults are the published scheme; what differs from them is for studies.
struct Fp8 {
  kernels::Accumulation accumulation;               // other than FP32: on the reference kernels only
  core::DType gradient_format = core::DType::e4m3;  // of the gradients of activations; or e5m2
  bool gradient_blocks = false;                     // their scales: false: of tiles of 128 numbers, true: of 128×128 blocks
  // Of all scales. false: of the MoE's input and its gradient, which travel to experts, and of what comes from the E5M6 store.
  bool power_of_two_scales = false;
};

struct Precision {
  core::DType storage = core::DType::bf16;     // activations and the compute copy of the weights
  core::DType accumulator = core::DType::f32;  // gradients, masters, logits, losses
  std::optional<Fp8> fp8 = {};
};

// fp32, bf16, fp8 (bf16 and the published scheme), fp64 (the reference backend only). Throws Error(usage) for another name.
Precision precision_of(std::string_view name);

// What a layer keeps from forward to backward; kept_tensors (store.h) is the list.
enum class ActivationStorage {
  full,   // all that backward reads
  bf16,   // in the storage type; norms, MLA up-projections and SwiGLU outputs are computed again [V3 §3.2.3]
  fp8,    // the same tensors; o_proj's input and SwiGLU's as codes
  paper,  // the same; o_proj's input in E5M6 [V3 §3.3.3]
};
// Throws Error(usage) for an unknown name.
ActivationStorage activation_storage_of(std::string_view name);

// Codes are kept only of what the layers read as codes: throws Error(usage) for fp8 and paper without FP8 layers.
void check_storage(const Precision& precision, ActivationStorage storage);

}  // namespace finback::model
