// One decoder block as two lists of four named phases, which schedules interleave and overlap [V3 §3.2.1]:
//
//   forward   attention → dispatch → experts → combine
//   backward  combine → experts → dispatch → attention        (to the input; the weights' gradients wait in backward_weight)
//
// attention: norm, MLA, residual; norm, gate, choice.  dispatch: tokens to experts.  experts: the routed and the shared
// feed-forwards.  combine: tokens back, weighted sum, residual.  A dense block has nothing to dispatch or combine.
#pragma once

#include "model/mla.h"
#include "model/moe.h"

#include <array>

namespace finback::model {

struct BlockActivations {
  core::Mat x_TD, mid_TD, out_TD;  // residual stream: in (kept), between attention and feed-forward (kept), out
  MlaActivations mla;
  MoeActivations moe;       // an MoE block
  SwigluActivations dense;  // a dense block
  LinearInput h_TD;         // its norm's output
  double balance = 0;       // Σ f·P of the balance loss
};

struct BlockGradients {
  core::Mat dout_TD, dmid_TD, dx_TD;
  MlaGradients mla;
  MoeGradients moe;
  SwigluGradients dense;
  core::Mat dh_TD;
};

// One block of one micro-batch.
struct BlockRun {
  const Run& run;
  std::int64_t layer;
  const BlockSlabs& slabs;
  const LatentLayer* latent;  // serving: the absorbed form of attention; null: the plain one
  BlockActivations& acts;
  BlockGradients* grads = nullptr;
  double balance_scale = 0;  // multiplies Σ f·P in the loss
  bool moe() const { return run.config.is_moe_layer(layer); }
};

using Phase = void (*)(const BlockRun&);
extern const std::array<Phase, 4> kForwardPhases, kBackwardPhases;

void block_forward(const BlockRun& block);
void block_backward_input(const BlockRun& block);
void block_backward_weight(const BlockRun& block);

// x and out are given by the caller.
void take_block(const Stores& stores, const ModelConfig& config, std::int64_t layer, std::int64_t tokens, std::int64_t sequences,
                BlockActivations& acts);
// Big enough for any block of the model; dout and dx are given by the caller.
void take_block_gradients(const Stores& stores, const ModelConfig& config, std::int64_t tokens, BlockGradients& grads);

}  // namespace finback::model
