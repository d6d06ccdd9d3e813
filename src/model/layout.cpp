#include "model/layout.h"

namespace finback::model {

using core::Arena;
using core::DType;
using core::Mat;

void Layout::lay_out(Arena& kept, Arena& again, Arena& work, const LayoutShape& s) {
  const auto blocks_here = static_cast<std::size_t>(s.blocks());
  const bool all = s.backward == BackwardBuffers::of_all_blocks;
  kept.release(0);
  again.release(0);
  work.release(0);
  main_blocks_ = static_cast<std::size_t>(s.stage.main_blocks());
  blocks.resize(blocks_here);
  mtp.resize(static_cast<std::size_t>(s.stage.depths(s.config)));
  dblocks.resize(s.backward == BackwardBuffers::none ? 0 : all ? blocks_here : 1);
  const Stores stores{kept, s.recompute() ? again : kept, work, s.precision, s.storage, s.spread};
  take_between_blocks(stores, again, s);

  // One after the other and never together: a block's forward pass, the head, a block's backward pass.
  const std::int64_t kept_mark = kept.mark(), work_mark = work.mark();
  for (std::size_t i = 0; i < blocks_here; ++i) {
    if (!s.training) kept.release(kept_mark);
    if (!all) again.release(0);
    work.release(work_mark);
    take_block(stores, s.config, s.stage.layer(s.config, static_cast<std::int64_t>(i)), s.tokens, s.sequences, blocks[i]);
  }
  work.release(work_mark);
  if (s.stage.heads) head.take(work, s.config, s.precision, s.tokens, s.training);
  work.release(work_mark);
  for (BlockGradients& g : dblocks) take_block_gradients(stores, s.config, s.tokens, g);
}

void Layout::take_between_blocks(const Stores& stores, Arena& again, const LayoutShape& s) {
  const ModelConfig& m = s.config;
  const auto take = [&](Arena& arena) { return arena.take_mat(s.precision.storage, s.tokens, m.hidden_size); };
  Arena& kept = stores.kept;
  // Norms whose output the heads and the MTP modules read: one buffer each, or one for all that is computed again for each of them.
  if (s.stage.heads) final_TD = take(s.recompute() ? stores.work : kept);
  for (MtpActivations& a : mtp) {
    again.release(0);
    a.take(stores, m, s.tokens);
    a.normed_TD = s.recompute() ? final_TD : take(kept);
  }
  input_TD = take(kept);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    BlockActivations& b = blocks[i];
    b.x_TD = i == 0 && main_blocks_ > 0 ? input_TD : i < main_blocks_ ? blocks[i - 1].out_TD : take(kept);
    b.out_TD = !s.training && i >= 2 && i < main_blocks_ ? blocks[i - 2].out_TD : take(kept);
  }
  if (s.stage.heads) best_main_1T = stores.work.take_mat(DType::i32, 1, s.tokens);
  if (s.backward == BackwardBuffers::none) return;
  if (s.stage.heads) {
    dfinal_TD = take(stores.work);
    dhidden_TD = take(stores.work);
  }
  if (!mtp.empty()) dmtp.take(stores.work, m, s.precision, s.tokens);
  // Where all blocks have theirs, an MTP module's two stand after the main blocks'.
  dstream_.resize(dblocks.size() > 1 ? main_blocks_ + 1 + 2 * mtp.size() : 2);
  for (Mat& d : dstream_) d = take(stores.work);
}

BlockGradients& Layout::dblock(std::size_t i) {
  BlockGradients& g = dblocks.size() > 1 ? dblocks[i] : dblocks.front();
  const std::size_t at = i < main_blocks_ || dblocks.size() == 1 ? i : main_blocks_ + 1 + 2 * (i - main_blocks_);
  g.dx_TD = dstream(at);
  g.dout_TD = dstream(at + 1);
  return g;
}

}  // namespace finback::model
