// The two halves of W_kvb as the absorbed form of MLA multiplies them [V2 §2.1.2]: per head W_UK turned round, [C, N], which takes a query
// into the space of the latents, and W_UV, [V, C], which takes what attention finds there back. A copy of a few hundredths of a model.
#pragma once

#include "model/params.h"

namespace finback::model {

struct AbsorbedWeights {
  std::vector<kernels::WeightView> k_up, v_up;  // one a decoder block, groups = heads, packed
};

std::int64_t absorbed_bytes(const kernels::Context& ctx, const ModelConfig& config, core::DType dtype);
// `weights`: bf16 or f32, kv_b_proj's slabs not packed. Takes absorbed_bytes from `memory`; ctx.scratch holds one
// of the slabs meanwhile.
AbsorbedWeights absorb_weights(const kernels::Context& ctx, const ModelConfig& config, const ParameterList& list,
                               const SlabBuffers& weights, core::Arena& memory);

}  // namespace finback::model
