// The buffers of a micro-batch on one stage of the model, laid out anew for every call: an arena's take() is an addition, the same calls
// give the same places, and every view has the rows of the micro-batch at hand.
#pragma once

#include "model/block.h"
#include "model/head.h"
#include "model/mtp.h"

namespace finback::model {

// A run of main blocks and what stands at the model's ends: what one pipeline stage computes. The whole model is one stage.
struct StageShape {
  std::int64_t first_block = 0, end_block = 0;  // main blocks first_block … end_block − 1; none is a stage that hands on what it gets
  bool embeds = false;                          // the embedding stands before them
  bool heads = false;                           // the final norm, the head and the MTP modules follow

  static StageShape whole(const ModelConfig& m) { return {0, m.num_hidden_layers, true, true}; }
  std::int64_t main_blocks() const { return end_block - first_block; }
  std::int64_t depths(const ModelConfig& m) const { return heads ? m.num_nextn_predict_layers : 0; }
  std::int64_t blocks(const ModelConfig& m) const { return main_blocks() + depths(m); }
  // The model's number of the stage's block i: its main blocks, then the MTP modules'.
  std::int64_t layer(const ModelConfig& m, std::int64_t i) const {
    return i < main_blocks() ? first_block + i : m.num_hidden_layers + i - main_blocks();
  }
};

// How long what backward makes of a block lives: through that block alone, or, where the weights' gradients wait, until all blocks
// have theirs.
enum class BackwardBuffers { none, of_a_block, of_all_blocks };

struct LayoutShape {
  const ModelConfig& config;
  StageShape stage;
  Precision precision;
  ActivationStorage storage = ActivationStorage::full;
  BackwardBuffers backward =
      BackwardBuffers::none;  // none, and no micro-batch that outlives its forward: one block's activations at a time
  bool training = false;
  std::int64_t tokens = 0, sequences = 0;
  bool spread = false;  // experts, over ranks
  bool recompute() const { return storage != ActivationStorage::full; }
  std::int64_t blocks() const { return stage.blocks(config); }
};

struct Layout {
  core::Mat input_TD;                    // of the first block
  std::vector<BlockActivations> blocks;  // of the stage: main blocks, then the MTP modules'
  core::Mat final_TD;                    // after the final norm
  std::vector<MtpActivations> mtp;
  // Work.
  HeadBuffers head;
  core::Mat best_main_1T;
  core::Mat dfinal_TD, dhidden_TD;
  MtpGradients dmtp;
  std::vector<BlockGradients> dblocks;  // one, or one a block

  // kept: from forward to backward_weight. again: what backward computes again. work: all else.
  void lay_out(core::Arena& kept, core::Arena& again, core::Arena& work, const LayoutShape& shape);

  // Of block i, with the gradients of its output and its input.
  BlockGradients& dblock(std::size_t i);
  core::Mat output_TD() const { return main_blocks_ > 0 ? blocks[main_blocks_ - 1].out_TD : input_TD; }
  // The gradients of the stage's output and input.
  core::Mat doutput_TD() { return dstream(main_blocks_); }
  core::Mat dinput_TD() { return dstream(0); }

 private:
  void take_between_blocks(const Stores& stores, core::Arena& again, const LayoutShape& shape);
  // The gradient of the residual stream before block i: two buffers in turn, or one for each.
  core::Mat dstream(std::size_t i) { return dstream_[dblocks.size() > 1 ? i : i % 2]; }

  std::size_t main_blocks_ = 0;
  std::vector<core::Mat> dstream_;
};

}  // namespace finback::model
