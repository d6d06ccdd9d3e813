#include "model/spread.h"

#include <numeric>

namespace finback::model {
namespace {

using core::Arena;
using core::ConstMat;
using core::Mat;

std::int64_t total(std::span<const std::int64_t> counts) { return std::accumulate(counts.begin(), counts.end(), std::int64_t{0}); }

// One number a slot as a row of its own, which travels as the others do.
Mat as_column(const Mat& x_1S) { return core::mat(x_1S.data, x_1S.dtype, x_1S.cols, 1); }

LinearInput rows_of(const LinearInput& x, std::int64_t begin, std::int64_t count) {
  if (x.plain) return {x.plain.row_range(begin, count), {}, x.power_of_two};
  return {{}, {x.codes.codes.row_range(begin, count), x.codes.scales.row_range(begin, count)}, x.power_of_two};
}

Stores stores_of(const Precision& p, ActivationStorage storage, Arena& kept, Arena& work) {
  return {kept, storage != ActivationStorage::full ? work : kept, work, p, storage};
}
Stores stores_of(const Run& run) { return stores_of(run.precision, run.storage, run.spread->kept, run.spread->work); }

// What arrives, of all senders.
struct Arrived {
  LinearInput x_SD;
  Mat slot_weight_1S;
};
Arrived take_arrived(const Stores& s, const ModelConfig& m, std::int64_t slots) {
  return {take_slots(s.kept, s.precision, core::DType::e4m3, slots, m.hidden_size), s.kept.take_mat(s.precision.accumulator, 1, slots)};
}
void take_offsets(const Stores& s, std::int64_t experts, ExpertRows& r) {
  r.offsets = {s.kept.take_array<std::int64_t>(experts + 1), static_cast<std::size_t>(experts + 1)};
}
// For the forward pass of a sender's slots.
void take_rows(const Stores& s, const ModelConfig& m, std::int64_t slots, ExpertRows& r) {
  r.gu_SX.take(s, slots, m.moe_intermediate_size);
  r.act_SF = s.take_input(slots, m.moe_intermediate_size);
}
// What backward computes again of them.
void take_again(const Stores& s, const ModelConfig& m, ExpertRows& r) {
  if (s.storage == ActivationStorage::full) return;
  if (s.keeps_codes()) r.gu_SX.plain = s.again.take_mat(s.precision.storage, r.slots(), 2 * m.moe_intermediate_size);
  r.act_SF = s.take_input(r.slots(), m.moe_intermediate_size);
}
LinearInput take_dy(const Stores& s, const ModelConfig& m, std::int64_t slots) {
  return take_slots(s.work, s.precision, gradient_format(s.precision), slots, m.hidden_size);
}
void take_dx(const Stores& s, const ModelConfig& m, std::int64_t slots, SenderGradients& g) {
  g.dx_SD = s.work.take_mat(s.precision.storage, slots, m.hidden_size);
  g.dweight_1S = s.work.take_mat(s.precision.accumulator, 1, slots);
}
void take_gradients(const Stores& s, const ModelConfig& m, std::int64_t slots, ExpertRowGradients& g) {
  g.dact_SF = s.work.take_mat(s.precision.storage, slots, m.moe_intermediate_size);
  g.dgu_SX = s.work.take_mat(s.precision.storage, slots, 2 * m.moe_intermediate_size);
}

void start(const Run& run, ExpertExchange::Stream stream, const LinearInput& send, std::span<const std::int64_t> to,
           const LinearInput& receive, std::span<const std::int64_t> from) {
  ExpertExchange& e = run.spread->exchange;
  if (send.plain) return e.start(stream, send.plain, to, receive.plain, from);
  e.start(stream, send.codes.codes, to, receive.codes.codes, from);
  e.start(stream, send.codes.scales, to, receive.codes.scales, from);
}

}  // namespace

SlotBytes slot_bytes(const ModelConfig& m, const Precision& precision, ActivationStorage storage, int ranks, std::int64_t slots) {
  Arena kept = Arena::counting(), work = Arena::counting();
  const Stores s = stores_of(precision, storage, kept, work);
  ExpertRows rows;
  ExpertRowGradients gradients;
  SenderGradients all;
  for (int r = 0; r < ranks; ++r) take_offsets(s, m.n_routed_experts / ranks, rows);
  take_arrived(s, m, slots);
  take_rows(s, m, slots, rows);
  work.take_mat(precision.storage, slots, m.hidden_size);  // y
  SlotBytes bytes{.kept = kept.high_water(), .forward = work.high_water()};
  Arena again = Arena::counting();
  const Stores back = stores_of(precision, storage, kept, again);
  rows.offsets = {&slots, 1};
  take_dy(back, m, slots);
  take_dx(back, m, slots, all);
  take_again(back, m, rows);
  take_gradients(back, m, slots, gradients);
  bytes.backward = again.high_water();
  return bytes;
}

void spread_dispatch(const Run& run, std::int64_t layer, std::span<const std::int64_t> offsets, const LinearInput& x, Mat slot_weight) {
  const Spread& spread = *run.spread;
  Senders& senders = spread.of(layer);
  const std::int64_t E = std::ssize(offsets) - 1, R = spread.exchange.ranks(), experts_here = E / R;
  spread.work.release(0);

  auto* sent = spread.work.take_array<std::int64_t>(E);
  auto* received = spread.work.take_array<std::int64_t>(E);
  for (std::int64_t e = 0; e < E; ++e) sent[e] = offsets[static_cast<std::size_t>(e) + 1] - offsets[static_cast<std::size_t>(e)];
  spread.exchange.tell({sent, static_cast<std::size_t>(E)}, {received, static_cast<std::size_t>(E)});

  const Stores stores = stores_of(run);
  for (std::int64_t r = 0; r < R; ++r) {
    const auto at = static_cast<std::size_t>(r);
    senders.to[at] = offsets[static_cast<std::size_t>((r + 1) * experts_here)] - offsets[static_cast<std::size_t>(r * experts_here)];
    ExpertRows& rows = senders.rows[at];
    take_offsets(stores, experts_here, rows);
    rows.offsets[0] = 0;
    std::inclusive_scan(received + r * experts_here, received + (r + 1) * experts_here, rows.offsets.begin() + 1);
    senders.from[at] = rows.slots();
  }
  const Arrived arrived = take_arrived(stores, run.config, total(senders.from));
  std::int64_t begin = 0;
  for (ExpertRows& rows : senders.rows) {
    rows.x_SD = rows_of(arrived.x_SD, begin, rows.slots());
    rows.slot_weight_1S = arrived.slot_weight_1S.columns(begin, rows.slots());
    begin += rows.slots();
  }
  start(run, ExpertExchange::forward, x, senders.to, arrived.x_SD, senders.from);
  spread.exchange.start(ExpertExchange::forward, as_column(slot_weight), senders.to, as_column(arrived.slot_weight_1S), senders.from);
}

void spread_experts(const Run& run, const BlockSlabs& slabs, std::int64_t layer, Mat y) {
  const Spread& spread = *run.spread;
  Senders& senders = spread.of(layer);
  const Stores stores = stores_of(run);
  senders.y_SD = spread.work.take_mat(run.precision.storage, total(senders.from), run.config.hidden_size);
  spread.exchange.wait(ExpertExchange::forward);
  std::int64_t begin = 0;
  for (ExpertRows& rows : senders.rows) {
    rows.y_SD = senders.y_SD.row_range(begin, rows.slots());
    begin += rows.slots();
    const core::ArenaScope temporary(spread.work);
    take_rows(stores, run.config, rows.slots(), rows);
    if (rows.slots() > 0) experts_forward(run, slabs, rows);
  }
  spread.exchange.start(ExpertExchange::forward, senders.y_SD, senders.from, y, senders.to);
}

void spread_combine_backward(const Run& run, std::int64_t layer, const LinearInput& dy, SenderGradients& g) {
  const Spread& spread = *run.spread;
  Senders& senders = spread.of(layer);
  const Stores stores = stores_of(run);
  if (!spread.waits) spread.work.release(0);
  g.rows.resize(senders.rows.size());
  const LinearInput arrived = take_dy(stores, run.config, total(senders.from));
  std::int64_t begin = 0;
  for (std::size_t r = 0; r < g.rows.size(); ++r) {
    g.rows[r].dy_SD = rows_of(arrived, begin, senders.from[r]);
    begin += senders.from[r];
  }
  start(run, ExpertExchange::backward, dy, senders.to, arrived, senders.from);
  // Under way meanwhile.
  if (!run.recompute()) return;
  for (ExpertRows& rows : senders.rows) {
    take_again(stores, run.config, rows);
    if (rows.slots() > 0) experts_again(run, rows);
  }
}

void spread_experts_backward(const Run& run, const BlockSlabs& slabs, std::int64_t layer, SenderGradients& g, Mat dx, Mat dweight) {
  const Spread& spread = *run.spread;
  Senders& senders = spread.of(layer);
  const Stores stores = stores_of(run);
  take_dx(stores, run.config, total(senders.from), g);
  spread.exchange.wait(ExpertExchange::backward);
  std::int64_t begin = 0;
  for (std::size_t r = 0; r < g.rows.size(); ++r) {
    ExpertRowGradients& of = g.rows[r];
    take_gradients(stores, run.config, senders.from[r], of);
    of.dx_SD = g.dx_SD.row_range(begin, senders.from[r]);
    of.dweight_1S = g.dweight_1S.columns(begin, senders.from[r]);
    begin += senders.from[r];
    if (senders.from[r] > 0) experts_backward_input(run, slabs, senders.rows[r], of);
  }
  spread.exchange.start(ExpertExchange::backward, g.dx_SD, senders.from, dx, senders.to);
  spread.exchange.start(ExpertExchange::backward, as_column(g.dweight_1S), senders.from, as_column(dweight), senders.to);
}

void spread_backward_weight(const Run& run, const BlockSlabs& slabs, std::int64_t layer, const SenderGradients& g) {
  Senders& senders = run.spread->of(layer);
  for (std::size_t r = 0; r < g.rows.size(); ++r)
    if (senders.from[r] > 0) experts_backward_weight(run, slabs, senders.rows[r], g.rows[r]);
}

}  // namespace finback::model
