#include "model/decoder.h"

#include "model/block.h"
#include "model/mtp.h"

#include <algorithm>

namespace finback::model {
namespace {

using core::Arena;
using core::ConstMat;
using core::Mat;

// The buffers of a batch, laid out anew for each: one block's at a time.
struct Buffers {
  Mat x_TD, out_TD;  // the residual stream, in turns
  Mat wanted_TD;
  Mat q_latent_TX, o_latent_TX;
  BlockActivations block;
  MtpActivations mtp;

  void take(Arena& arena, const ModelConfig& m, const Decoder::Options& o, std::int64_t T) {
    const core::DType storage = o.precision.storage;
    x_TD = arena.take_mat(storage, T, m.hidden_size);
    out_TD = arena.take_mat(storage, T, m.hidden_size);
    wanted_TD = arena.take_mat(storage, o.max_wanted, m.hidden_size);
    q_latent_TX = arena.take_mat(storage, T, m.num_attention_heads * m.kv_lora_rank);
    o_latent_TX = arena.take_mat(storage, T, m.num_attention_heads * m.kv_lora_rank);
    if (o.drafts) mtp.take({arena, arena, arena, o.precision, ActivationStorage::full}, m, T);
  }
  void take_block(Arena& arena, const ModelConfig& m, const Decoder::Options& o, std::int64_t layer, std::int64_t T) {
    model::take_block({arena, arena, arena, o.precision, ActivationStorage::full}, m, layer, T, /*sequences=*/1, block);
    block.x_TD = x_TD;
    block.out_TD = out_TD;
  }
};

std::int64_t buffer_bytes(const ModelConfig& m, const Decoder::Options& o) {
  Arena count = Arena::counting();
  Buffers b;
  b.take(count, m, o, o.max_tokens);
  const std::int64_t mark = count.mark();
  for (std::int64_t l = 0; l < m.num_hidden_layers + o.drafts; ++l) {
    count.release(mark);
    b.take_block(count, m, o, l, o.max_tokens);
  }
  return count.high_water();
}

std::int64_t hidden_bytes(const ModelConfig& m, const Decoder::Options& o) {
  return o.drafts ? o.max_tokens * m.hidden_size * core::size_of(o.precision.storage) : 0;
}
std::int64_t table_bytes(const ModelConfig& m, const Decoder::Options& o) {
  return o.max_positions * m.qk_rope_head_dim * core::size_of(o.precision.accumulator);
}

}  // namespace

std::int64_t page_bytes(const ModelConfig& m, core::DType storage, bool with_drafts) {
  return (m.num_hidden_layers + with_drafts) * kernels::kPage * (m.kv_lora_rank + m.qk_rope_head_dim) * core::size_of(storage);
}

struct Decoder::State {
  ModelConfig config;
  Options options;
  ModelSlabs slabs;
  Arena memory, tables, kept;
  Mat cos_sin_PR;
  Mat hidden_TD;  // what an MTP module continues, from one call to the next; null without drafts
  std::vector<std::int32_t> positions;
  std::vector<std::int64_t> cache_rows;
  std::int64_t nonfinite_tiles = 0, experts_read = 0;
  Buffers buffers;

  State(const ModelConfig& m, const ParameterList& list, const Options& o)
      : config(m),
        options(o),
        slabs(find_slabs(m, list)),
        memory("serving activations", buffer_bytes(m, o)),
        tables("rope table", table_bytes(m, o)),
        kept("hidden states", hidden_bytes(m, o)),
        cos_sin_PR(tables.take_mat(o.precision.accumulator, o.max_positions, m.qk_rope_head_dim)) {
    fill_rope_table(config, cos_sin_PR);
    if (o.drafts) hidden_TD = kept.take_mat(o.precision.storage, o.max_tokens, m.hidden_size);
    positions.reserve(static_cast<std::size_t>(o.max_tokens));
    cache_rows.reserve(static_cast<std::size_t>(o.max_tokens));
  }

  // The batch's places in its sequences and in the cache, and the buffers for so many rows.
  Run begin(const kernels::Context& ctx, const SlabBuffers& weights, const RaggedBatch& batch) {
    place(batch);
    memory.release(0);
    buffers.take(memory, config, options, std::ssize(batch.ids));
    return {.ctx = ctx,
            .config = config,
            .precision = options.precision,
            .weights = weights,
            .gradients = nullptr,
            .tokens = std::ssize(batch.ids),
            .sequences = 1,
            .segments = {},
            .positions_T = positions,
            .cos_sin_PR = cos_sin_PR,
            .storage = ActivationStorage::full,
            .tiles = nullptr,
            .nonfinite_tiles = &nonfinite_tiles};
  }

  void place(const RaggedBatch& batch) {
    positions.clear();
    cache_rows.clear();
    for (const kernels::PagedSegment& s : batch.segments) {
      FB_CHECK(s.q_row == std::ssize(positions) && s.first_position + s.rows <= options.max_positions, "row {}, positions {} + {}", s.q_row,
               s.first_position, s.rows);
      for (std::int64_t p = s.first_position; p < s.first_position + s.rows; ++p) {
        positions.push_back(static_cast<std::int32_t>(p));
        cache_rows.push_back(s.pages[p / kernels::kPage] * kernels::kPage + p % kernels::kPage);
      }
    }
    FB_CHECK(positions.size() == batch.ids.size() && std::ssize(batch.ids) <= options.max_tokens, "{} rows, {} ids", positions.size(),
             batch.ids.size());
  }

  // x_TD through one block.
  void block(const Run& run, std::size_t l, const AbsorbedWeights& absorbed, const Mat& cache, const RaggedBatch& batch) {
    const auto layer = static_cast<std::int64_t>(l);
    const core::ArenaScope scope(memory);
    buffers.take_block(memory, config, options, layer, run.tokens);
    const LatentLayer latent{
        cache, batch.segments, cache_rows, absorbed.k_up[l], absorbed.v_up[l], buffers.q_latent_TX, buffers.o_latent_TX};
    block_forward({.run = run, .layer = layer, .slabs = slabs.blocks[l], .latent = &latent, .acts = buffers.block});
    std::swap(buffers.x_TD, buffers.out_TD);
    if (!config.is_moe_layer(layer)) return;
    const auto& offsets = buffers.block.moe.routing.offsets;
    for (std::size_t e = 0; e + 1 < offsets.size(); ++e) experts_read += offsets[e + 1] > offsets[e];
  }

  // The wanted rows of x_TD through a norm and the head. Leaves them in out_TD and, normed, in wanted_TD.
  void head(const Run& run, int norm, const RaggedBatch& batch, Mat logits) {
    const std::int64_t wanted = std::ssize(batch.wanted);
    if (wanted == 0) return;
    const Mat rows = buffers.out_TD.row_range(0, wanted), normed = buffers.wanted_TD.row_range(0, wanted);
    run.k().gather_rows(run.ctx, buffers.x_TD, batch.wanted, rows);
    run.k().rms_norm_forward(run.ctx, rows, run.weight(norm), config.rms_norm_eps, normed);
    linear_forward(run, normed, slabs.head, {}, logits.row_range(0, wanted));
  }

  void keep(const Run& run, ConstMat hidden) { run.k().convert(run.ctx, hidden, hidden_TD.row_range(0, hidden.rows)); }
};

std::int64_t Decoder::memory_needed(const ModelConfig& config, const Options& options) {
  return buffer_bytes(config, options) + hidden_bytes(config, options) + table_bytes(config, options);
}

Decoder::Decoder(const ModelConfig& config, const ParameterList& list, const Options& options)
    : state_(std::make_unique<State>(config, list, options)) {
  FB_CHECK(!options.precision.fp8 && options.precision.storage != core::DType::f64, "serving computes in bf16 or f32");
}
Decoder::~Decoder() = default;

std::int64_t Decoder::experts_read() const { return state_->experts_read; }

void Decoder::forward(const kernels::Context& ctx, const SlabBuffers& weights, const AbsorbedWeights& absorbed, std::span<const Mat> cache,
                      const RaggedBatch& batch, Mat logits) {
  State& s = *state_;
  const Run run = s.begin(ctx, weights, batch);
  run.k().embedding_forward(ctx, run.weight(s.slabs.embedding), batch.ids, s.buffers.x_TD);
  for (std::size_t l = 0; l < static_cast<std::size_t>(s.config.num_hidden_layers); ++l) s.block(run, l, absorbed, cache[l], batch);
  s.head(run, s.slabs.norm, batch, logits);
  if (!s.hidden_TD) return;
  const Mat hidden = s.hidden_TD.row_range(0, run.tokens);
  if (s.config.mtp_hidden_post_norm) run.k().rms_norm_forward(ctx, s.buffers.x_TD, run.weight(s.slabs.norm), s.config.rms_norm_eps, hidden);
  else s.keep(run, s.buffers.x_TD);
}

void Decoder::draft(const kernels::Context& ctx, const SlabBuffers& weights, const AbsorbedWeights& absorbed, Mat cache,
                    const RaggedBatch& batch, std::span<const std::int32_t> hidden_rows, Mat logits) {
  State& s = *state_;
  const Run run = s.begin(ctx, weights, batch);
  const auto module = static_cast<std::size_t>(s.config.num_hidden_layers);
  const BlockSlabs& slabs = s.slabs.blocks[module];
  std::ranges::copy(batch.ids, s.buffers.mtp.ids.begin());
  run.k().gather_rows(ctx, s.hidden_TD, hidden_rows, s.buffers.out_TD);
  mtp_join(run, s.slabs, slabs, s.buffers.out_TD, s.buffers.mtp, s.buffers.x_TD);
  s.block(run, module, absorbed, cache, batch);
  s.head(run, slabs.head_norm, batch, logits);
  s.keep(run, (s.config.mtp_hidden_post_norm ? s.buffers.wanted_TD : s.buffers.out_TD).row_range(0, std::ssize(batch.wanted)));
}

}  // namespace finback::model
