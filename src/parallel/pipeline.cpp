#include "parallel/pipeline.h"

#include "core/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace finback::parallel {
namespace {

// Messages between two ranks keep their order: a kind and a direction (schedule.h) have a tag of their own.
enum Tag { kOutput = 8, kGradient = 10, kEvaluation = 12 };

std::span<const std::byte> bytes_of(core::ConstMat x) {
  return {static_cast<const std::byte*>(x.data), static_cast<std::size_t>(x.size() * core::size_of(x.dtype))};
}
std::span<std::byte> bytes_of(const core::Mat& x) { return {static_cast<std::byte*>(x.data), static_cast<std::size_t>(x.bytes())}; }

void copy(core::ConstMat from, const core::Mat& to) { std::memcpy(to.data, from.data, static_cast<std::size_t>(to.bytes())); }

// As others read it where this rank dies or stalls.
void tell_phase(comm::Communicator& world, const Action& a) {
  static constexpr std::array kNames{"forward", "backward", "backward", "weights", "pair"};
  const Cell& cell = a.work == Work::forward ? a.forward : a.backward;
  std::array<char, 32> text;
  const auto end = fmt::format_to_n(text.data(), text.size(), "{}, stage {}, batch {}", kNames[static_cast<std::size_t>(a.work)],
                                    cell.stage, cell.micro_batch);
  world.set_phase({text.data(), std::min(text.size(), end.size)});
}

bool has_forward(const Action& a) { return a.work == Work::forward || a.work == Work::pair; }
bool has_backward(const Action& a) { return a.work == Work::backward || a.work == Work::backward_input || a.work == Work::pair; }

}  // namespace

CellsNeeded cells_needed(std::span<const Action> actions) {
  CellsNeeded needed{.cells = peak_activations(actions)};
  int waiting = 0;
  for (const Action& a : actions) {
    if (a.work == Work::backward_input) needed.waiting = std::max(needed.waiting, ++waiting);
    if (a.work == Work::backward_weight) --waiting;
    needed.pairs |= a.work == Work::pair;
  }
  return needed;
}

CellsNeeded cells_needed(ScheduleKind kind, int ranks, int rank, std::span<const int> micro_batches) {
  CellsNeeded most;
  for (const int n : micro_batches) {
    const CellsNeeded now = cells_needed(make_schedule(kind, ranks, n).actions[static_cast<std::size_t>(rank)]);
    most = {std::max(most.cells, now.cells), std::max(most.waiting, now.waiting), most.pairs || now.pairs};
  }
  return most;
}

model::StageShape shape_of(const Stages& stages, int stage) {
  const auto s = static_cast<std::size_t>(stage);
  return {.first_block = stages.first_block[s],
          .end_block = stages.first_block[s + 1],
          .embeds = stage == 0,
          .heads = stage + 1 == stages.count()};
}

Pipeline::Pipeline(model::Transformer& transformer, Member* member, const CellsNeeded& needed)
    : transformer_(transformer), member_(member), slots_(static_cast<std::size_t>(needed.cells)) {}

const Schedule& Pipeline::schedule_of(int micro_batches) {
  const auto known = schedules_.find(micro_batches);
  if (known != schedules_.end()) return known->second;
  const ScheduleKind kind = member_ ? member_->schedule() : ScheduleKind::one_f_one_b;
  return schedules_.emplace(micro_batches, make_schedule(kind, member_ ? member_->mesh().layout().pp : 1, micro_batches)).first->second;
}

void Pipeline::play(const model::Pass& pass, int micro_batches, const MicroBatches& batch, model::LossSums& sums) {
  schedule_ = &schedule_of(micro_batches);
  batch_ = &batch;
  sums_ = &sums;
  const auto& actions = schedule_->actions[static_cast<std::size_t>(member_ ? member_->at().pp : 0)];
  for (std::size_t i = 0; i < actions.size(); ++i) {
    if (member_) tell_phase(member_->world(), actions[i]);
    expect(actions[i]);
    if (i + 1 < actions.size()) expect(actions[i + 1]);  // travels while this one computes
    play(pass, actions[i]);
  }
  for (Gradient& g : leaving_) g.request.wait(), g.in_use = false;
}

void Pipeline::play(const model::Pass& pass, const Action& a) {
  const Cell &f = a.forward, &b = a.backward;
  switch (a.work) {
    case Work::forward:
      transformer_.forward(pass, begin_forward(f));
      return end_forward(f);
    case Work::backward:
      end_backward(b, transformer_.backward(pass, slot_of(b), begin_backward(b)));
      return finish(b);
    case Work::backward_input:
      return end_backward(b, transformer_.backward_input(pass, slot_of(b), begin_backward(b)));
    case Work::backward_weight:
      transformer_.backward_weight(pass, slot_of(b));
      return finish(b);
    case Work::pair: {
      const int slot = begin_forward(f);
      const core::ConstMat dinput = transformer_.pair(pass, slot, slot_of(b), begin_backward(b));
      end_forward(f);
      end_backward(b, dinput);
      return finish(b);
    }
  }
}

int Pipeline::own_stage(int stage) const {
  if (!member_) return 0;
  const auto& own = member_->part().stages;
  return static_cast<int>(std::find(own.begin(), own.end(), stage) - own.begin());
}

int Pipeline::slot_of(const Cell& cell) const {
  for (std::size_t i = 0; i < slots_.size(); ++i)
    if (slots_[i].in_use && slots_[i].cell == cell) return static_cast<int>(i);
  FB_CHECK(false, "no slot holds stage {}, micro-batch {}", cell.stage, cell.micro_batch);
}

bool Pipeline::opened(const Cell& cell) const {
  return std::any_of(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.in_use && s.cell == cell; });
}

std::size_t Pipeline::free_slot() const {
  const auto free = std::find_if(slots_.begin(), slots_.end(), [](const Slot& s) { return !s.in_use; });
  return static_cast<std::size_t>(free - slots_.begin());
}

// ---- what comes in. Receives are posted as soon as there is room.

void Pipeline::open(const Cell& forward) {
  const std::size_t i = free_slot();
  FB_CHECK(i < slots_.size(), "no slot is free for stage {}, micro-batch {}", forward.stage, forward.micro_batch);
  Slot& slot = slots_[i];
  slot.cell = forward;
  slot.in_use = true;
  slot.input = transformer_.begin(static_cast<int>(i), own_stage(forward.stage), (*batch_)(forward.micro_batch), *sums_);
  const Cell before{forward.stage - 1, forward.micro_batch};
  if (slot.input && !here(before))
    slot.arriving = member_->world().start_receive(world_rank(before), kOutput + schedule_->direction_of(forward), bytes_of(slot.input));
}

void Pipeline::expect(const Action& a) {
  if (has_forward(a) && !opened(a.forward) && free_slot() < slots_.size()) open(a.forward);
  if (!has_backward(a) || a.backward.stage + 1 == schedule_->stages) return;
  const Cell after{a.backward.stage + 1, a.backward.micro_batch};
  if (here(after) || find_gradient(a.backward) || !opened(a.backward)) return;
  Gradient& g = take(arriving_, a.backward, bytes_of(transformer_.output(slot_of(a.backward))).size());
  g.request = member_->world().start_receive(world_rank(after), kGradient + schedule_->direction_of(a.backward), g.bytes);
}

int Pipeline::begin_forward(const Cell& forward) {
  const int i = slot_of(forward);
  Slot& slot = slots_[static_cast<std::size_t>(i)];
  const Cell before{forward.stage - 1, forward.micro_batch};
  if (slot.input && here(before)) copy(transformer_.output(slot_of(before)), slot.input);
  slot.arriving.wait();
  return i;
}

// The gradient of the cell's output; nothing where the stage has the head.
core::ConstMat Pipeline::begin_backward(const Cell& backward) {
  if (backward.stage + 1 == schedule_->stages) return {};
  Gradient* g = find_gradient(backward);
  FB_CHECK(g != nullptr, "no gradient for stage {}, micro-batch {}", backward.stage, backward.micro_batch);
  g->request.wait();
  g->in_use = false;  // until the next action expects one; what it holds is read before that
  core::ConstMat d = transformer_.output(slot_of(backward));
  d.data = g->bytes.data();
  return d;
}

// ---- what goes out

void Pipeline::end_forward(const Cell& forward) {
  const Cell after{forward.stage + 1, forward.micro_batch};
  if (after.stage == schedule_->stages || here(after)) return;
  const int i = slot_of(forward);
  slots_[static_cast<std::size_t>(i)].leaving =
      member_->world().start_send(world_rank(after), kOutput + schedule_->direction_of(after), bytes_of(transformer_.output(i)));
}

void Pipeline::end_backward(const Cell& backward, core::ConstMat dinput) {
  if (backward.stage == 0) return;
  const Cell before{backward.stage - 1, backward.micro_batch};
  const auto bytes = bytes_of(dinput);
  for (Gradient& g : leaving_) g.in_use = g.in_use && !g.request.poll();
  Gradient& g = take(here(before) ? arriving_ : leaving_, before, bytes.size());
  std::memcpy(g.bytes.data(), bytes.data(), bytes.size());
  if (!here(before)) g.request = member_->world().start_send(world_rank(before), kGradient + schedule_->direction_of(before), g.bytes);
}

// The next stage has had the output: its gradient came back.
void Pipeline::finish(const Cell& cell) {
  Slot& slot = slots_[static_cast<std::size_t>(slot_of(cell))];
  slot.leaving.wait();
  slot.in_use = false;
}

Pipeline::Gradient& Pipeline::take(std::vector<Gradient>& pool, const Cell& of, std::size_t bytes) {
  auto free = std::find_if(pool.begin(), pool.end(), [](const Gradient& g) { return !g.in_use; });
  if (free == pool.end()) free = pool.emplace(pool.end());
  free->of = of;
  free->in_use = true;
  free->bytes.resize(bytes);
  return *free;
}

Pipeline::Gradient* Pipeline::find_gradient(const Cell& of) {
  const auto found = std::find_if(arriving_.begin(), arriving_.end(), [&](const Gradient& g) { return g.in_use && g.of == of; });
  return found == arriving_.end() ? nullptr : &*found;
}

void Pipeline::evaluate(const model::Pass& pass, const model::MicroBatch& batch, model::LossSums& sums) {
  schedule_ = &schedule_of(2);
  int slot = -1;
  for (int s = 0; s < schedule_->stages; ++s) {
    const Cell cell{s, 0}, before{s - 1, 0}, after{s + 1, 0};
    if (!here(cell)) continue;
    const int last_slot = slot++;
    if (const core::Mat input = transformer_.begin(slot, own_stage(s), batch, sums)) {
      if (here(before)) copy(transformer_.output(last_slot), input);
      else member_->world().start_receive(world_rank(before), kEvaluation, bytes_of(input)).wait();
    }
    transformer_.forward(pass, slot);
    if (after.stage == schedule_->stages) transformer_.losses(pass, slot);
    else if (!here(after)) member_->world().start_send(world_rank(after), kEvaluation, bytes_of(transformer_.output(slot))).wait();
  }
}

}  // namespace finback::parallel
