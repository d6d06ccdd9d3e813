// One micro-batch on one stage of the model: what stands before, between and after its blocks, forward and backward, and the one loop
// that plays the phases of a forward and of a backward in turn.
#pragma once

#include "model/layout.h"
#include "model/transformer.h"

namespace finback::model {

class StageRun {
 public:
  StageRun(const Run& run, const Pass& pass, const ModelSlabs& slabs, const StageShape& stage, const MicroBatch& batch, Layout& buffers,
           LossSums& sums);

  void losses();  // of the head and the modules, without backward
  void backward_weight();
  void main_forward();  // without the modules
  void main_loss();     // reads what that leaves
  const Run& run() const { return run_; }

  // A forward, a backward (its `weights` too or not), or both, phase by phase in turn: an exchange that one starts runs while the
  // other computes. Either may be null.
  static void play(StageRun* forward, StageRun* backward, bool weights);

 private:
  BlockRun block(std::size_t i);
  std::int64_t layer(std::size_t i) const { return stage_.layer(run_.config, static_cast<std::int64_t>(i)); }
  const BlockSlabs& slabs(std::size_t i) const { return slabs_.blocks[static_cast<std::size_t>(layer(i))]; }
  std::size_t main_blocks() const { return static_cast<std::size_t>(stage_.main_blocks()); }
  std::size_t steps() const { return main_blocks() + depths_; }
  // The block of a backward's step: the modules' from the last, then the main ones from the last.
  std::size_t backward_block(std::size_t step) const {
    return step < depths_ ? main_blocks() + depths_ - 1 - step : main_blocks() - 1 - (step - depths_);
  }
  bool is_module(std::size_t i) const { return i >= main_blocks(); }

  void begin_forward();
  void before_forward(std::size_t i);
  void after_forward(std::size_t i);
  void begin_backward();
  void before_backward(std::size_t i);
  void after_backward(std::size_t i);
  void end_backward();

  core::ConstMat mtp_hidden(std::size_t depth) const;
  void final_norm();
  void mtp_norm(std::size_t depth);
  void mtp_loss(std::size_t depth);
  void norm_backward(core::ConstMat dnormed, core::ConstMat x, int slab, core::ConstMat also, core::Mat dx);
  void main_norm_backward();
  void count_routing(std::size_t i);
  void count_accepted(std::size_t depth);

  const Run& run_;
  const Pass& pass_;
  const ModelSlabs& slabs_;
  const StageShape stage_;
  const MicroBatch& batch_;
  Layout& buffers_;
  LossSums& sums_;
  const std::size_t depths_;
};

}  // namespace finback::model
