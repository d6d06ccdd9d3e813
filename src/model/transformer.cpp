#include "model/transformer.h"

#include "model/block.h"
#include "model/head.h"
#include "model/linear.h"
#include "model/mtp.h"

#include <algorithm>
#include <cstring>

namespace finback::model {

using core::Arena;
using core::ConstMat;
using core::DType;
using core::Mat;
using kernels::Context;
using kernels::Segment;

void LossSums::reset(const ModelConfig& config) {
  const auto depths = static_cast<std::size_t>(config.num_nextn_predict_layers);
  main = balance = 0;
  main_tokens = nonfinite_tiles = 0;
  mtp.assign(depths, 0);
  mtp_tokens.assign(depths, 0);
  mtp_accepted.assign(depths, 0);
  expert_load.assign(static_cast<std::size_t>(config.blocks() * config.n_routed_experts), 0);
}

void LossSums::add(LossSums& other) {
  const auto each = [](auto ours, auto theirs) {
    for (std::size_t i = 0; i < ours.size(); ++i)
      for (std::size_t j = 0; j < ours[i].size(); ++j) ours[i][j] += theirs[i][j];
  };
  each(reals(), other.reals());
  each(counts(), other.counts());
}

namespace {

// All buffers of a micro-batch. They are laid out anew for each one (an arena's take() is an addition), so that every view
// has the rows of the micro-batch at hand.
struct Layout {
  std::vector<BlockActivations> blocks;  // main layers, then MTP blocks
  Mat final_TD;                          // after the final norm
  std::vector<MtpActivations> mtp;
  // Work.
  HeadBuffers head;
  Mat best_main_1T;
  Mat dfinal_TD, dout_TD, dx_TD, dhidden_TD;
  MtpGradients dmtp;
  BlockGradients dblock;

  // Without `training` only one block's activations exist at a time.
  void lay_out(Arena& kept, Arena& recomputed, Arena& work, const ModelConfig& m, const Transformer::Options& o, std::int64_t T,
               std::int64_t sequences) {
    kept.release(0);
    recomputed.release(0);
    work.release(0);
    blocks.resize(static_cast<std::size_t>(m.blocks()));
    mtp.resize(static_cast<std::size_t>(m.num_nextn_predict_layers));
    const bool recompute = o.storage != ActivationStorage::full;
    const Stores stores{kept, recompute ? recomputed : kept, work, o.precision, o.storage};
    take_between_blocks(stores, recomputed, m, o, T);

    // One after the other and never together: a block's forward pass, the head, a block's backward pass.
    const std::int64_t kept_mark = kept.mark(), work_mark = work.mark();
    for (std::size_t l = 0; l < blocks.size(); ++l) {
      if (!o.training) kept.release(kept_mark);
      recomputed.release(0);
      work.release(work_mark);
      take_block(stores, m, static_cast<std::int64_t>(l), T, sequences, blocks[l]);
    }
    work.release(work_mark);
    head.take(work, m, o.precision, T, o.training);
    work.release(work_mark);
    if (o.training) take_block_gradients(work, m, o.precision, T, dblock);
  }

 private:
  void take_between_blocks(const Stores& stores, Arena& recomputed, const ModelConfig& m, const Transformer::Options& o, std::int64_t T) {
    const DType storage = o.precision.storage;
    Arena& kept = stores.kept;
    const bool recompute = &stores.again != &kept;
    // Norms whose output the heads and the MTP modules read: one buffer each, or one for all that is computed again for each of them.
    final_TD = (recompute ? stores.work : kept).take_mat(storage, T, m.hidden_size);
    for (MtpActivations& a : mtp) {
      recomputed.release(0);
      a.take(stores, m, T);
      a.normed_TD = recompute ? final_TD : kept.take_mat(storage, T, m.hidden_size);
    }
    for (std::size_t l = 0; l < blocks.size(); ++l) {
      BlockActivations& b = blocks[l];
      const bool follows = l > 0 && l < static_cast<std::size_t>(m.num_hidden_layers);  // its input is the output of the block before
      b.x_TD = follows ? blocks[l - 1].out_TD : kept.take_mat(storage, T, m.hidden_size);
      b.out_TD = !o.training && l >= 2 && follows ? blocks[l - 2].out_TD : kept.take_mat(storage, T, m.hidden_size);
    }
    best_main_1T = stores.work.take_mat(DType::i32, 1, T);
    if (!o.training) return;
    for (Mat* d : {&dfinal_TD, &dout_TD, &dx_TD, &dhidden_TD}) *d = stores.work.take_mat(storage, T, m.hidden_size);
    if (!mtp.empty()) dmtp.take(stores.work, m, o.precision, T);
  }
};

Mat rope_table(Arena& arena, const ModelConfig& m, const Transformer::Options& o) {
  return arena.take_mat(o.precision.accumulator, o.max_seq_len, m.qk_rope_head_dim);
}

}  // namespace

struct Transformer::State {
  ModelConfig config;
  Options options;
  ModelSlabs slabs;
  Arena kept, again, work, tiles, tables;
  std::int64_t nonfinite_tiles = 0;
  Mat cos_sin_PR;
  std::vector<std::int32_t> positions;
  std::vector<Segment> segments;
  Layout buffers;

  State(const ModelConfig& m, const ParameterList& list, const Options& o, const Memory& memory)
      : config(m),
        options(o),
        slabs(find_slabs(m, list)),
        kept("activations", memory.activations),
        again("recomputed", memory.recomputed),
        work("work", memory.work),
        tiles("tiles", memory.tiles),
        tables("tables", o.max_seq_len * m.qk_rope_head_dim * core::size_of(o.precision.accumulator)),
        cos_sin_PR(rope_table(tables, m, o)) {
    fill_rope_table(config, cos_sin_PR);
    positions.reserve(static_cast<std::size_t>(o.max_tokens));
    segments.reserve(static_cast<std::size_t>(o.max_tokens));
  }

  Run begin(const Context& ctx, const SlabBuffers& weights, const SlabBuffers* gradients, std::int64_t sequences, std::int64_t seq_len,
            std::int64_t first) {
    const std::int64_t T = sequences * seq_len;
    FB_CHECK(T <= options.max_tokens && first + seq_len <= options.max_seq_len, "{} tokens of {}, position {} of {}", T, options.max_tokens,
             first + seq_len, options.max_seq_len);
    FB_CHECK(!gradients || options.training);
    positions.clear();
    segments.clear();
    for (std::int64_t s = 0; s < sequences; ++s) {
      segments.push_back({.q_row = s * seq_len, .rows = seq_len, .first_position = first, .kv_row = s * seq_len});
      for (std::int64_t i = 0; i < seq_len; ++i) positions.push_back(static_cast<std::int32_t>(first + i));
    }
    buffers.lay_out(kept, again, work, config, options, T, sequences);
    return {ctx,       config,     options.precision, weights, gradients,       T, sequences, segments,
            positions, cos_sin_PR, options.storage,   &tiles,  &nonfinite_tiles};
  }

  BlockRun block(const Run& run, std::size_t l, const KeyValueRows* cache = nullptr) {
    return {run, static_cast<std::int64_t>(l), slabs.blocks[l], cache, buffers.blocks[l], &buffers.dblock};
  }

  Mat main_output() { return buffers.blocks[static_cast<std::size_t>(config.num_hidden_layers) - 1].out_TD; }
  std::size_t mtp_block(std::size_t depth) const { return static_cast<std::size_t>(config.num_hidden_layers) + depth; }

  // What MTP module `depth` (from 0) takes as the hidden state: the main model's for the first, the module's before it after.
  ConstMat mtp_hidden(std::size_t depth) {
    if (depth == 0) return config.mtp_hidden_post_norm ? buffers.final_TD : main_output();
    return config.mtp_hidden_post_norm ? buffers.mtp[depth - 1].normed_TD : buffers.blocks[mtp_block(depth - 1)].out_TD;
  }

  // The norm after the main layers, and after module `depth`.
  void final_norm(const Run& run) { norm(run, main_output(), slabs.norm, buffers.final_TD); }
  void mtp_norm(const Run& run, std::size_t depth) {
    const std::size_t l = mtp_block(depth);
    norm(run, buffers.blocks[l].out_TD, slabs.blocks[l].head_norm, buffers.mtp[depth].normed_TD);
  }
  void norm(const Run& run, ConstMat x, int slab, Mat y) { run.k().rms_norm_forward(run.ctx, x, run.weight(slab), config.rms_norm_eps, y); }

  void main_forward(const Run& run, std::span<const std::int32_t> ids, std::span<const KeyValueRows> cache = {}) {
    run.k().embedding_forward(run.ctx, run.weight(slabs.embedding), ids, buffers.blocks.front().x_TD);
    for (std::size_t l = 0; l < static_cast<std::size_t>(config.num_hidden_layers); ++l)
      block_forward(block(run, l, cache.empty() ? nullptr : &cache[l]));
    final_norm(run);
  }

  void mtp_forward(const Run& run, const MicroBatch& batch, std::size_t depth) {
    MtpActivations& a = buffers.mtp[depth];
    const std::size_t l = mtp_block(depth);
    const core::SpanScope span(run.ctx.spans, "mtp", static_cast<std::int64_t>(l));
    mtp_shift(batch.inputs, batch.targets, batch.seq_len, static_cast<std::int64_t>(depth) + 1, a);
    mtp_join(run, slabs, slabs.blocks[l], mtp_hidden(depth), a, buffers.blocks[l].x_TD);
    block_forward(block(run, l));
    mtp_norm(run, depth);
  }

  void block_backward(const Run& run, std::size_t l, double balance_scale) {
    buffers.dblock.dout_TD = buffers.dout_TD;
    buffers.dblock.dx_TD = buffers.dx_TD;
    BlockRun b = block(run, l);
    b.balance_scale = balance_scale;
    block_backward_input(b);
    block_backward_weight(b);
  }

  // From dnormed (gradient after the norm) to dout (before it); `also` is a gradient that reaches the block's output directly.
  void norm_backward(const Run& run, ConstMat dnormed, ConstMat x, int slab, ConstMat also) {
    run.k().rms_norm_backward_input(run.ctx, dnormed, x, run.weight(slab), config.rms_norm_eps, also, buffers.dout_TD);
    run.k().rms_norm_backward_weight(run.ctx, dnormed, x, config.rms_norm_eps, run.gradient(slab));
  }

  // Backward through module `depth`, whose dnormed stands in dmtp. `carry`: the gradient of the hidden state that the module
  // after it read (null for the last). Leaves its own in dhidden_TD.
  void mtp_backward(const Run& run, std::size_t depth, bool carry, double balance_scale) {
    const std::size_t l = mtp_block(depth);
    const core::SpanScope span(run.ctx.spans, "mtp_backward", static_cast<std::int64_t>(l));
    MtpActivations& a = buffers.mtp[depth];
    Mat dnormed = buffers.dmtp.dnormed_TD;
    const bool after_norm = config.mtp_hidden_post_norm;
    if (carry && after_norm) run.k().add(run.ctx, dnormed, buffers.dhidden_TD, dnormed);
    norm_backward(run, dnormed, buffers.blocks[l].out_TD, slabs.blocks[l].head_norm,
                  carry && !after_norm ? ConstMat(buffers.dhidden_TD) : ConstMat{});
    block_backward(run, l, balance_scale);
    if (run.recompute()) depth == 0 ? final_norm(run) : mtp_norm(run, depth - 1);  // its hidden state, and what the loss before it reads
    mtp_join_backward_input(run, slabs, slabs.blocks[l], mtp_hidden(depth), a, buffers.dx_TD, buffers.dmtp, {}, buffers.dhidden_TD);
    mtp_join_backward_weight(run, slabs, slabs.blocks[l], mtp_hidden(depth), a, buffers.dx_TD, buffers.dmtp);
  }

  void main_backward(const Run& run, std::span<const std::int32_t> ids, bool carry, double balance_scale) {
    const bool after_norm = config.mtp_hidden_post_norm;
    if (carry && after_norm) run.k().add(run.ctx, buffers.dfinal_TD, buffers.dhidden_TD, buffers.dfinal_TD);
    norm_backward(run, buffers.dfinal_TD, main_output(), slabs.norm, carry && !after_norm ? ConstMat(buffers.dhidden_TD) : ConstMat{});
    for (auto l = static_cast<std::size_t>(config.num_hidden_layers); l-- > 0;) {
      block_backward(run, l, balance_scale);
      std::swap(buffers.dout_TD, buffers.dx_TD);
    }
    run.k().embedding_backward(run.ctx, buffers.dout_TD, ids, run.gradient(slabs.embedding));
  }

  void count_routing(LossSums& sums, std::size_t blocks) const {
    const auto E = static_cast<std::size_t>(config.n_routed_experts);
    for (std::size_t l = 0; l < blocks; ++l) {
      if (!config.is_moe_layer(static_cast<std::int64_t>(l))) continue;
      const BlockActivations& b = buffers.blocks[l];
      sums.balance += b.balance;
      for (std::size_t e = 0; e < E; ++e) sums.expert_load[l * E + e] += b.moe.routing.offsets[e + 1] - b.moe.routing.offsets[e];
    }
  }

  // The module's guess at position i and the main model's at i + depth + 1 are guesses of the same token.
  void count_accepted(const MicroBatch& batch, std::size_t depth, LossSums& sums) const {
    const auto* main = buffers.best_main_1T.row<std::int32_t>(0);
    const auto* draft = buffers.head.best_1T.row<std::int32_t>(0);
    const auto& targets = buffers.mtp[depth].targets;
    for (std::size_t t = 0; t < batch.inputs.size(); ++t) sums.mtp_accepted[depth] += targets[t] >= 0 && draft[t] == main[t + depth + 1];
  }
};

Transformer::Memory Transformer::memory_needed(const ModelConfig& config, const Options& options) {
  Arena kept = Arena::counting(), again = Arena::counting(), work = Arena::counting();
  Layout layout;
  // A micro-batch of max_tokens in the most sequences it could hold needs the most room.
  const std::int64_t sequences = options.max_sequences > 0 ? options.max_sequences : options.max_tokens;
  layout.lay_out(kept, again, work, config, options, options.max_tokens, sequences);
  const std::int64_t tiles = options.training ? tile_bytes(config, options.precision, options.max_tokens) : 0;
  return {kept.high_water(), again.high_water(), work.high_water(), tiles};
}

std::int64_t Transformer::activation_bytes() const { return state_->kept.high_water(); }

Transformer::Transformer(const ModelConfig& config, const ParameterList& list, const Options& options)
    : state_(std::make_unique<State>(config, list, options, memory_needed(config, options))) {
  check_storage(options.precision, options.storage);
}

Transformer::~Transformer() = default;

void Transformer::forward_backward(const Context& ctx, const SlabBuffers& weights, const MicroBatch& batch, const LossWeights& scale,
                                   bool with_mtp, const SlabBuffers* gradients, LossSums& sums) {
  State& s = *state_;
  const Run run = s.begin(ctx, weights, gradients, batch.sequences, batch.seq_len, 0);
  const std::size_t depths = with_mtp ? s.buffers.mtp.size() : 0;
  s.nonfinite_tiles = 0;
  s.main_forward(run, batch.inputs);
  head_loss(run, s.slabs.head, s.buffers.final_TD, batch.targets, scale.main, s.buffers.head, s.buffers.dfinal_TD);
  sums.main += sum_losses(s.buffers.head.loss_1T, batch.targets, sums.main_tokens);
  std::memcpy(s.buffers.best_main_1T.data, s.buffers.head.best_1T.data, static_cast<std::size_t>(s.buffers.best_main_1T.bytes()));
  for (std::size_t k = 0; k < depths; ++k) s.mtp_forward(run, batch, k);
  s.count_routing(sums, s.mtp_block(depths));

  for (std::size_t k = depths; k-- > 0;) {
    const MtpActivations& a = s.buffers.mtp[k];
    head_loss(run, s.slabs.head, a.normed_TD, a.targets, scale.mtp, s.buffers.head, s.buffers.dmtp.dnormed_TD);
    sums.mtp[k] += sum_losses(s.buffers.head.loss_1T, a.targets, sums.mtp_tokens[k]);
    s.count_accepted(batch, k, sums);
    if (gradients) s.mtp_backward(run, k, /*carry=*/k + 1 < depths, scale.sequence_balance);
  }
  if (gradients) s.main_backward(run, batch.inputs, /*carry=*/depths > 0, scale.sequence_balance);
  sums.nonfinite_tiles += s.nonfinite_tiles;
}

void Transformer::score(const Context& ctx, const SlabBuffers& weights, const MicroBatch& batch, Mat loss_1T) {
  State& s = *state_;
  const Run run = s.begin(ctx, weights, nullptr, batch.sequences, batch.seq_len, 0);
  s.main_forward(run, batch.inputs);
  head_loss(run, s.slabs.head, s.buffers.final_TD, batch.targets, 1, s.buffers.head, {});
  std::memcpy(loss_1T.data, s.buffers.head.loss_1T.data, static_cast<std::size_t>(loss_1T.bytes()));
}

void Transformer::logits(const Context& ctx, const SlabBuffers& weights, std::span<const std::int32_t> ids, Mat logits_TW) {
  State& s = *state_;
  const Run run = s.begin(ctx, weights, nullptr, 1, static_cast<std::int64_t>(ids.size()), 0);
  s.main_forward(run, ids);
  linear_forward(run, s.buffers.final_TD, s.slabs.head, {}, logits_TW);
}

void Transformer::extend(const Context& ctx, const SlabBuffers& weights, std::span<const std::int32_t> ids, std::int64_t first_position,
                         std::span<const KeyValueRows> cache, Mat logits_1W) {
  State& s = *state_;
  const Run run = s.begin(ctx, weights, nullptr, 1, static_cast<std::int64_t>(ids.size()), first_position);
  s.main_forward(run, ids, cache);
  linear_forward(run, s.buffers.final_TD.row_range(run.tokens - 1, 1), s.slabs.head, {}, logits_1W);
}

}  // namespace finback::model
