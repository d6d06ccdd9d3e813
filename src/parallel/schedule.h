// Pipeline schedules as data: for every rank the plain list of what it computes in one training step, in order. One generator makes the
// list; the trainer plays it and the planner simulates it.
//
//   1f1b       one forward, one backward in turn (PipeDream-flush; Narayanan et al., arXiv 2104.04473, §2.2)
//   zb1p       1f1b with the backward to the weights put off into the gaps (ZB-H1; Qi et al., arXiv 2401.10241, §3.1)
//   dualpipe   micro-batches enter at both ends; each rank holds a stage of either direction, and the forward of one micro-batch is
//              overlapped with the backward of another (DeepSeek-V3 report, §3.2.1, and its published code)
//   dualpipev  DualPipe cut in half: 2 · PP stages go down the ranks and come back, one copy of the parameters
//
// A micro-batch keeps one number throughout the step. In DualPipe the first half of them goes from rank 0 to the last, the other half
// the other way.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

namespace finback::parallel {

enum class ScheduleKind { one_f_one_b, zb1p, dualpipe, dualpipev };
inline constexpr std::array kScheduleKinds{ScheduleKind::one_f_one_b, ScheduleKind::zb1p, ScheduleKind::dualpipe, ScheduleKind::dualpipev};

std::string_view name_of(ScheduleKind kind);           // "1f1b", "zb1p", "dualpipe", "dualpipev"
ScheduleKind schedule_kind_of(std::string_view name);  // throws Error(usage) for another name

// One micro-batch on one stage of the model; stage 0 has the embedding.
struct Cell {
  int stage = -1, micro_batch = -1;
  bool operator==(const Cell&) const = default;
};

enum class Work : unsigned char {
  forward,
  backward,         // to the input and to the weights
  backward_input,   // to the input alone; the weights' gradient waits
  backward_weight,  // the one that waited
  pair,  // a forward and the full backward of another cell, phase by phase, so that exchange of one runs under compute of the other
};

struct Action {
  Work work;
  Cell forward;   // of forward and pair
  Cell backward;  // of all others and pair
};

// What one action makes and another waits for: a cell's output, or the gradient of its input.
struct Product {
  bool gradient = false;
  Cell cell;
  bool operator==(const Product&) const = default;
};

class Products {
 public:
  void add(const Product& p) { at_[count_++] = p; }
  const Product* begin() const { return at_.data(); }
  const Product* end() const { return at_.data() + count_; }

 private:
  std::array<Product, 3> at_;
  std::size_t count_ = 0;
};

struct Schedule {
  ScheduleKind kind;
  int ranks = 0, micro_batches = 0, stages = 0;
  std::vector<std::vector<Action>> actions;  // [ranks]

  // The rank that computes a cell: where its inputs and gradients are sent.
  int rank_of(const Cell& cell) const;
  // Which of a rank's two streams of work a cell belongs to: 1 for what goes from the last rank to the first (DualPipe's other
  // direction, the way back of DualPipeV), else 0.
  int direction_of(const Cell& cell) const;
  // Before an action may begin these must be there; those of other ranks are received. The weights' gradient needs that of the
  // input, which its own rank has made before.
  Products needs(const Action& action) const;
  Products makes(const Action& action) const;
};

// Stages that the model is cut into.
int stages_of(ScheduleKind kind, int ranks);
// Those that a rank holds: one, or two, rising.
std::vector<int> stages_on(ScheduleKind kind, int ranks, int rank);

// The lists. Throws Error(usage) with the reason where there is none: ranks or micro-batches below 1, DualPipe with an odd number of
// either, more than 2^18 cells.
// DualPipe's published list is for micro-batches ≥ 2 · ranks (a direction's ≥ ranks). With fewer it is the list of that many with
// the missing micro-batches left out, which keeps every order and so every dependency.
Schedule make_schedule(ScheduleKind kind, int ranks, int micro_batches);

// The most activations, each of one stage and micro-batch, that the rank with this list has alive at a time: from their forward to their
// backward to the weights. It follows from the order alone, whatever the durations.
int peak_activations(std::span<const Action> actions);

}  // namespace finback::parallel
