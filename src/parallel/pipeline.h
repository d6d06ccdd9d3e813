// A rank's part in a step: plays its list of a schedule (schedule.h) with real layers, and sends what other ranks wait for. One rank alone
// plays forward and backward of each micro-batch in turn.
#pragma once

#include "model/transformer.h"
#include "parallel/member.h"

#include <functional>
#include <map>
#include <vector>

namespace finback::parallel {

// Room that a rank's Transformer needs for a list: micro-batches on a stage that are alive at a time, those of them whose weights'
// gradients wait, and whether a forward runs between the phases of a backward.
struct CellsNeeded {
  int cells = 1, waiting = 0;
  bool pairs = false;
};
CellsNeeded cells_needed(std::span<const Action> actions);
// Of the steps of all these sizes.
CellsNeeded cells_needed(ScheduleKind kind, int ranks, int rank, std::span<const int> micro_batches);

// The blocks of a stage, as the model computes them.
model::StageShape shape_of(const Stages& stages, int stage);

class Pipeline {
 public:
  // The i-th micro-batch of a step.
  using MicroBatches = std::function<model::MicroBatch(int i)>;

  // member: null for one rank alone. The transformer has the stages of member's part, in that order, and `needed`'s room.
  Pipeline(model::Transformer& transformer, Member* member, const CellsNeeded& needed);

  // One step; gradients and losses of this rank's stages are added to the pass's and to `sums`. The tokens stay where they are meanwhile.
  // Throws Error(usage) as make_schedule does.
  void play(const model::Pass& pass, int micro_batches, const MicroBatches& batch, model::LossSums& sums);
  // Forward and losses of one micro-batch, all ranks of the pipeline together.
  void evaluate(const model::Pass& pass, const model::MicroBatch& batch, model::LossSums& sums);

 private:
  struct Slot {  // a cell of the transformer
    Cell cell;
    bool in_use = false;
    core::Mat input;  // null: the stage embeds
    comm::Request arriving, leaving;
  };
  struct Gradient {  // of a stage's output, on its way
    Cell of;
    bool in_use = false;
    std::vector<std::byte> bytes;
    comm::Request request;
  };

  const Schedule& schedule_of(int micro_batches);
  bool here(const Cell& cell) const { return !member_ || schedule_->rank_of(cell) == member_->at().pp; }
  int world_rank(const Cell& cell) const { return member_->mesh().rank_at(schedule_->rank_of(cell), member_->at().dp); }
  int own_stage(int stage) const;
  int slot_of(const Cell& cell) const;
  std::size_t free_slot() const;
  bool opened(const Cell& cell) const;

  void open(const Cell& forward);
  void expect(const Action& action);
  int begin_forward(const Cell& forward);
  core::ConstMat begin_backward(const Cell& backward);
  void end_forward(const Cell& forward);
  void end_backward(const Cell& backward, core::ConstMat dinput);
  void finish(const Cell& cell);
  void play(const model::Pass& pass, const Action& action);

  static Gradient& take(std::vector<Gradient>& pool, const Cell& of, std::size_t bytes);
  Gradient* find_gradient(const Cell& of);

  model::Transformer& transformer_;
  Member* const member_;
  std::map<int, Schedule> schedules_;  // by micro-batches
  std::vector<Slot> slots_;
  std::vector<Gradient> arriving_, leaving_;
  // Of the step at hand.
  const Schedule* schedule_ = nullptr;
  const MicroBatches* batch_ = nullptr;
  model::LossSums* sums_ = nullptr;
};

}  // namespace finback::parallel
