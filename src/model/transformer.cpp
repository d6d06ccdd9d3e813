#include "model/transformer.h"

#include "model/linear.h"
#include "model/stage_run.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace finback::model {

using core::Arena;
using core::ConstMat;
using core::Mat;
using kernels::Context;
using kernels::Segment;

void LossSums::reset(const ModelConfig& config) {
  const auto depths = static_cast<std::size_t>(config.num_nextn_predict_layers);
  main = 0;
  main_tokens = nonfinite_tiles = 0;
  balance.assign(static_cast<std::size_t>(config.blocks()), 0);
  mtp.assign(depths, 0);
  mtp_tokens.assign(depths, 0);
  mtp_accepted.assign(depths, 0);
  expert_load.assign(static_cast<std::size_t>(config.blocks() * config.n_routed_experts), 0);
}

void Pass::embedding_backward(const Run& run, int slab, ConstMat dembedding, std::span<const std::int32_t> ids, bool mtp) const {
  if (embedding) return (*embedding)(dembedding, ids, mtp);
  run.k().embedding_backward(run.ctx, dembedding, ids, run.gradient(slab));
}

namespace {

using Options = Transformer::Options;

// A micro-batch on a stage: what is kept of it, and where it stands.
struct Cell {
  Cell(std::int64_t bytes, std::int64_t slot_bytes, const ModelConfig& m, int expert_ranks)
      : kept("activations", bytes), slots(Arena::growing("slots of experts", slot_bytes)) {
    if (expert_ranks > 1) senders.assign(static_cast<std::size_t>(m.blocks()), Senders(expert_ranks));
  }
  Arena kept, slots;
  std::vector<Senders> senders;  // [blocks of the model]
  StageShape stage;
  MicroBatch batch;
  LossSums* sums = nullptr;
  std::vector<std::int32_t> positions;
  std::vector<Segment> segments;
  Mat input, output;
  int waiting = -1;  // whose buffers its backward_weight reads
};

// Buffers that one action after another works in.
struct Workspace {
  Workspace(const char* name, std::int64_t again_bytes, std::int64_t work_bytes, std::int64_t slot_bytes)
      : again("recomputed", again_bytes), work(name, work_bytes), slots(Arena::growing("work of experts", slot_bytes)) {}
  Arena again, work, slots;
  Layout layout;
  bool in_use = false;
};

LayoutShape layout_shape(const ModelConfig& m, const Options& o, const StageShape& stage, BackwardBuffers backward, std::int64_t tokens,
                         std::int64_t sequences) {
  return {m, stage, o.precision, o.storage, backward, o.training, tokens, sequences, o.expert_ranks > 1};
}

std::vector<StageShape> stages_of(const ModelConfig& m, const Options& o) {
  return o.stages.empty() ? std::vector{StageShape::whole(m)} : o.stages;
}

struct Bytes {
  std::int64_t kept = 0, again = 0, work = 0;
  std::int64_t kept_slots = 0, work_slots = 0;  // where experts are spread
};

// Of the stage that needs most.
Bytes bytes_needed(const ModelConfig& m, const Options& o, BackwardBuffers backward) {
  // A micro-batch of max_tokens in the most sequences it could hold needs the most room.
  const std::int64_t sequences = o.max_sequences > 0 ? o.max_sequences : o.max_tokens;
  const bool all = backward == BackwardBuffers::of_all_blocks;
  SlotBytes of_slots;
  if (o.expert_ranks > 1) {
    const double slots = o.max_imbalance * static_cast<double>(o.max_tokens * m.num_experts_per_tok);
    of_slots = slot_bytes(m, o.precision, o.storage, o.expert_ranks, static_cast<std::int64_t>(slots));
  }
  Bytes most;
  for (const StageShape& stage : stages_of(m, o)) {
    std::int64_t moe_blocks = 0;
    for (std::int64_t i = 0; i < stage.blocks(m); ++i) moe_blocks += m.is_moe_layer(stage.layer(m, i));
    Arena kept = Arena::counting(), again = Arena::counting(), work = Arena::counting();
    Layout().lay_out(kept, again, work, layout_shape(m, o, stage, backward, o.max_tokens, sequences));
    const std::int64_t of_a_block = std::max(of_slots.forward, of_slots.backward);
    most = {std::max(most.kept, kept.high_water()), std::max(most.again, again.high_water()), std::max(most.work, work.high_water()),
            std::max(most.kept_slots, moe_blocks * of_slots.kept),
            std::max(most.work_slots, all ? moe_blocks * of_slots.backward : of_a_block)};
  }
  return most;
}

BackwardBuffers of_a_block(const Options& o) { return o.training ? BackwardBuffers::of_a_block : BackwardBuffers::none; }

}  // namespace

struct Transformer::State {
  ModelConfig config;
  Options options;
  ModelSlabs slabs;
  std::vector<StageShape> stages;
  std::vector<Cell> cells;
  std::vector<Workspace> spaces;  // of forward; of backward, where they come in pairs; of those whose weights' gradients wait
  Arena tiles, tables;
  Mat cos_sin_PR;
  LossSums unread;  // of inference

  State(const ModelConfig& m, const ParameterList& list, const Options& o)
      : config(m),
        options(o),
        slabs(find_slabs(m, list)),
        stages(stages_of(m, o)),
        tiles("tiles", memory_needed(m, o).tiles),
        tables("tables", o.max_seq_len * m.qk_rope_head_dim * core::size_of(o.precision.accumulator)),
        cos_sin_PR(tables.take_mat(o.precision.accumulator, o.max_seq_len, m.qk_rope_head_dim)) {
    fill_rope_table(config, cos_sin_PR);
    unread.reset(config);
    const Bytes one = bytes_needed(m, o, of_a_block(o));
    for (int c = 0; c < o.cells; ++c) {
      Cell& cell = cells.emplace_back(one.kept, one.kept_slots, m, o.expert_ranks);
      cell.positions.reserve(static_cast<std::size_t>(o.max_tokens));
      cell.segments.reserve(static_cast<std::size_t>(o.max_tokens));
    }
    spaces.emplace_back("work", one.again, one.work, one.work_slots);
    if (o.pairs) spaces.emplace_back("work of backward", one.again, one.work, one.work_slots);
    if (o.waiting == 0) return;
    const Bytes all = bytes_needed(m, o, BackwardBuffers::of_all_blocks);
    for (int w = 0; w < o.waiting; ++w) spaces.emplace_back("waiting for backward_weight", all.again, all.work, all.work_slots);
  }

  Cell& cell(int c) { return cells[static_cast<std::size_t>(c)]; }
  Workspace& forward_space() { return spaces.front(); }
  Workspace& backward_space() { return spaces[options.pairs ? 1 : 0]; }
  Workspace& waiting_space(int w) { return spaces[static_cast<std::size_t>((options.pairs ? 2 : 1) + w)]; }
  bool is_waiting(const Workspace& space) { return options.waiting > 0 && &space >= &waiting_space(0); }
  int take_waiting_space() {
    int w = 0;
    while (w < options.waiting && waiting_space(w).in_use) ++w;
    FB_CHECK(w < options.waiting, "{} cells wait for backward_weight already", options.waiting);
    waiting_space(w).in_use = true;
    return w;
  }

  void lay_out(Cell& c, Workspace& space, BackwardBuffers backward) {
    const std::int64_t T = c.batch.sequences * c.batch.seq_len;
    space.slots.release(0);
    space.layout.lay_out(c.kept, space.again, space.work, layout_shape(config, options, c.stage, backward, T, c.batch.sequences));
  }

  void open(Cell& c, const StageShape& stage, const MicroBatch& batch) {
    const std::int64_t T = batch.sequences * batch.seq_len;
    FB_CHECK(T <= options.max_tokens && batch.seq_len <= options.max_seq_len, "{} tokens of {}, {} positions of {}", T, options.max_tokens,
             batch.seq_len, options.max_seq_len);
    c.stage = stage;
    c.batch = batch;
    c.slots.release(0);
    c.positions.clear();
    c.segments.clear();
    for (std::int64_t s = 0; s < batch.sequences; ++s) {
      c.segments.push_back({.q_row = s * batch.seq_len, .rows = batch.seq_len, .kv_row = s * batch.seq_len});
      for (std::int64_t i = 0; i < batch.seq_len; ++i) c.positions.push_back(static_cast<std::int32_t>(i));
    }
    lay_out(c, forward_space(), of_a_block(options));
    c.input = forward_space().layout.input_TD;
    c.output = forward_space().layout.output_TD();
  }

  // `play` gets the cell's StageRun in the buffers of `space`.
  template <class Play>
  void with(const Pass& pass, Cell& c, Workspace& space, Play&& play) {
    std::optional<Spread> spread;
    if (options.expert_ranks > 1) spread.emplace(Spread{*options.exchange, c.slots, space.slots, is_waiting(space), c.senders});
    const Run run{pass.ctx,
                  config,
                  options.precision,
                  pass.weights,
                  pass.gradients,
                  c.batch.sequences * c.batch.seq_len,
                  c.batch.sequences,
                  c.segments,
                  c.positions,
                  cos_sin_PR,
                  options.storage,
                  &tiles,
                  &c.sums->nonfinite_tiles,
                  spread ? &*spread : nullptr};
    StageRun stage(run, pass, slabs, c.stage, c.batch, space.layout, *c.sums);
    play(stage);
  }

  // Before a backward: the buffers, and in them the gradient of the stage's output.
  void begin_backward(Cell& c, Workspace& space, BackwardBuffers buffers, ConstMat doutput) {
    lay_out(c, space, buffers);
    if (c.stage.heads) return;
    const Mat d = space.layout.doutput_TD();
    FB_CHECK(doutput.rows == d.rows && doutput.cols == d.cols, "a gradient [{}, {}], not [{}, {}]", doutput.rows, doutput.cols, d.rows,
             d.cols);
    std::memcpy(d.data, doutput.data, static_cast<std::size_t>(d.bytes()));
  }
  static ConstMat end_backward(const Cell& c, Workspace& space) { return c.stage.embeds ? ConstMat{} : space.layout.dinput_TD(); }

  // Inference: the whole model up to the final norm, without losses. `after` reads what that leaves.
  template <class After>
  void infer(const Context& ctx, const SlabBuffers& weights, const MicroBatch& batch, After&& after) {
    Cell& c = cells.front();
    open(c, stages.front(), batch);
    c.sums = &unread;
    const Pass pass{ctx, weights};
    with(pass, c, forward_space(), [&](StageRun& stage) {
      stage.main_forward();
      after(stage, forward_space().layout);
    });
  }
};
Transformer::Memory Transformer::memory_needed(const ModelConfig& m, const Options& o) {
  const Bytes one = bytes_needed(m, o, of_a_block(o));
  Memory memory{.activations = o.cells * one.kept, .recomputed = one.again, .work = one.work};
  memory.slots = o.cells * one.kept_slots + (o.pairs ? 2 : 1) * one.work_slots;
  if (o.pairs) memory.recomputed *= 2, memory.work *= 2;
  if (o.waiting > 0) {
    const Bytes all = bytes_needed(m, o, BackwardBuffers::of_all_blocks);
    memory.waiting = o.waiting * (all.again + all.work);
    memory.slots += o.waiting * all.work_slots;
  }
  memory.tiles = o.training ? tile_bytes(m, o.precision, o.max_tokens) : 0;
  return memory;
}

std::int64_t Transformer::activation_bytes() const {
  std::int64_t most = 0;
  for (const Cell& c : state_->cells) most = std::max(most, c.kept.high_water());
  return most;
}

std::int64_t Transformer::spilled_bytes() const {
  std::int64_t sum = 0;
  for (const Cell& c : state_->cells) sum += c.slots.spilled();
  for (const Workspace& w : state_->spaces) sum += w.slots.spilled();
  return sum;
}

Transformer::Transformer(const ModelConfig& config, const ParameterList& list, const Options& options)
    : state_(std::make_unique<State>(config, list, options)) {
  check_storage(options.precision, options.storage);
}

Transformer::~Transformer() = default;

void Transformer::forward_backward(const Pass& pass, const MicroBatch& batch, LossSums& sums) {
  begin(0, 0, batch, sums);
  forward(pass, 0);
  if (pass.gradients) backward(pass, 0, {});
  else losses(pass, 0);
}

Mat Transformer::begin(int cell, int stage, const MicroBatch& batch, LossSums& sums) {
  State& s = *state_;
  Cell& c = s.cell(cell);
  s.open(c, s.stages[static_cast<std::size_t>(stage)], batch);
  c.sums = &sums;
  return c.stage.embeds ? Mat{} : c.input;
}

ConstMat Transformer::output(int cell) const { return state_->cell(cell).output; }

void Transformer::forward(const Pass& pass, int cell) {
  State& s = *state_;
  Cell& c = s.cell(cell);
  s.lay_out(c, s.forward_space(), of_a_block(s.options));
  s.with(pass, c, s.forward_space(), [](StageRun& stage) { StageRun::play(&stage, nullptr, false); });
}

void Transformer::losses(const Pass& pass, int cell) {
  State& s = *state_;
  Cell& c = s.cell(cell);
  s.lay_out(c, s.forward_space(), of_a_block(s.options));
  s.with(pass, c, s.forward_space(), [](StageRun& stage) { stage.losses(); });
}

ConstMat Transformer::backward(const Pass& pass, int cell, ConstMat doutput) {
  State& s = *state_;
  Cell& c = s.cell(cell);
  Workspace& space = s.backward_space();
  s.begin_backward(c, space, BackwardBuffers::of_a_block, doutput);
  s.with(pass, c, space, [](StageRun& stage) { StageRun::play(nullptr, &stage, true); });
  return s.end_backward(c, space);
}

ConstMat Transformer::backward_input(const Pass& pass, int cell, ConstMat doutput) {
  State& s = *state_;
  Cell& c = s.cell(cell);
  c.waiting = s.take_waiting_space();
  Workspace& space = s.waiting_space(c.waiting);
  s.begin_backward(c, space, BackwardBuffers::of_all_blocks, doutput);
  s.with(pass, c, space, [](StageRun& stage) { StageRun::play(nullptr, &stage, false); });
  return s.end_backward(c, space);
}

void Transformer::backward_weight(const Pass& pass, int cell) {
  State& s = *state_;
  Cell& c = s.cell(cell);
  Workspace& space = s.waiting_space(c.waiting);
  s.with(pass, c, space, [](StageRun& stage) { stage.backward_weight(); });
  space.in_use = false;
}

ConstMat Transformer::pair(const Pass& pass, int forward_cell, int backward_cell, ConstMat doutput) {
  State& s = *state_;
  FB_CHECK(s.options.pairs, "no room for pairs");
  Cell &f = s.cell(forward_cell), &b = s.cell(backward_cell);
  Workspace& space = s.backward_space();
  s.lay_out(f, s.forward_space(), of_a_block(s.options));
  s.begin_backward(b, space, BackwardBuffers::of_a_block, doutput);
  s.with(pass, f, s.forward_space(),
         [&](StageRun& forward) { s.with(pass, b, space, [&](StageRun& backward) { StageRun::play(&forward, &backward, true); }); });
  return s.end_backward(b, space);
}

void Transformer::score(const Context& ctx, const SlabBuffers& weights, const MicroBatch& batch, Mat loss_1T) {
  State& s = *state_;
  s.infer(ctx, weights, batch, [&](StageRun& stage, const Layout& buffers) {
    stage.main_loss();
    std::memcpy(loss_1T.data, buffers.head.loss_1T.data, static_cast<std::size_t>(loss_1T.bytes()));
  });
}

void Transformer::logits(const Context& ctx, const SlabBuffers& weights, std::span<const std::int32_t> ids, Mat logits_TW) {
  State& s = *state_;
  const MicroBatch batch{1, std::ssize(ids), ids, {}};
  s.infer(ctx, weights, batch,
          [&](StageRun& stage, const Layout& buffers) { linear_forward(stage.run(), buffers.final_TD, s.slabs.head, {}, logits_TW); });
}

}  // namespace finback::model
