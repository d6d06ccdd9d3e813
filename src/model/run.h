// What every layer of one forward or backward pass sees: the context, the shape, the weights and where the tokens stand.
#pragma once

#include "model/params.h"
#include "model/precision.h"

#include <span>

namespace finback::model {

struct Spread;  // spread.h

struct Run {
  const kernels::Context& ctx;
  const ModelConfig& config;
  Precision precision;
  const SlabBuffers& weights;
  const SlabBuffers* gradients;  // null: no backward pass follows
  std::int64_t tokens, sequences;
  std::span<const kernels::Segment> segments;
  std::span<const std::int32_t> positions_T;
  core::ConstMat cos_sin_PR;
  ActivationStorage storage;
  core::Arena* tiles;              // for codes that one product reads
  std::int64_t* nonfinite_tiles;   // quantised tiles that held a NaN or an infinity, counted here
  const Spread* spread = nullptr;  // null: all experts are here

  const kernels::Table& k() const { return ctx.kernels; }
  bool recompute() const { return storage != ActivationStorage::full; }
  const Fp8& fp8() const { return *precision.fp8; }
  void count_nonfinite(std::int64_t tiles_of_a_call) const { *nonfinite_tiles += tiles_of_a_call; }
  core::ConstMat weight(int slab) const { return weights.slabs[static_cast<std::size_t>(slab)]; }
  core::Mat gradient(int slab) const { return gradients->slabs[static_cast<std::size_t>(slab)]; }
  kernels::WeightView linear(int slab, std::int64_t groups = 1) const {
    const core::ConstMat w = weight(slab);
    const auto s = static_cast<std::size_t>(slab);
    if (weights.scales.empty())
      return {.data = w.data,
              .dtype = w.dtype,
              .groups = groups,
              .rows = w.rows / groups,
              .cols = w.cols,
              .packed = !weights.packed.empty() && weights.packed[s]};
    return {w.data, w.dtype, groups, w.rows / groups, w.cols, weights.scales[s], weights.parts[s]};
  }
};

// The slabs of one decoder block, −1 where the block has none.
struct BlockSlabs {
  int input_norm = -1, qkv_a = -1, q_a_norm = -1, q_b = -1, kv_a_norm = -1, kv_b = -1, o = -1, post_norm = -1;
  int gate = -1, gate_bias = -1, expert_gate_up = -1, expert_down = -1;
  int gate_up = -1, down = -1;                               // dense layer, or the shared experts
  int enorm = -1, hnorm = -1, eh_proj = -1, head_norm = -1;  // MTP blocks
};

struct ModelSlabs {
  int embedding = -1, norm = -1, head = -1;
  std::vector<BlockSlabs> blocks;
};

ModelSlabs find_slabs(const ModelConfig& config, const ParameterList& list);

}  // namespace finback::model
