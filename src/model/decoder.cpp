#include "model/decoder.h"

#include "model/block.h"

#include <algorithm>

namespace finback::model {
namespace {

using core::Arena;
using core::Mat;

// The buffers of a batch, laid out anew for each: one block's at a time.
struct Buffers {
  Mat x_TD, out_TD;  // the residual stream, in turns
  Mat wanted_TD;
  Mat q_latent_TX, o_latent_TX;
  BlockActivations block;

  void take(Arena& arena, const ModelConfig& m, const Decoder::Options& o, std::int64_t T) {
    const core::DType storage = o.precision.storage;
    x_TD = arena.take_mat(storage, T, m.hidden_size);
    out_TD = arena.take_mat(storage, T, m.hidden_size);
    wanted_TD = arena.take_mat(storage, o.max_wanted, m.hidden_size);
    q_latent_TX = arena.take_mat(storage, T, m.num_attention_heads * m.kv_lora_rank);
    o_latent_TX = arena.take_mat(storage, T, m.num_attention_heads * m.kv_lora_rank);
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
  for (std::int64_t l = 0; l < m.num_hidden_layers; ++l) {
    count.release(mark);
    b.take_block(count, m, o, l, o.max_tokens);
  }
  return count.high_water();
}

std::int64_t table_bytes(const ModelConfig& m, const Decoder::Options& o) {
  return o.max_positions * m.qk_rope_head_dim * core::size_of(o.precision.accumulator);
}

}  // namespace

std::int64_t page_bytes(const ModelConfig& m, core::DType storage) {
  return m.num_hidden_layers * kernels::kPage * (m.kv_lora_rank + m.qk_rope_head_dim) * core::size_of(storage);
}

struct Decoder::State {
  ModelConfig config;
  Options options;
  ModelSlabs slabs;
  Arena memory, tables;
  Mat cos_sin_PR;
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
        cos_sin_PR(tables.take_mat(o.precision.accumulator, o.max_positions, m.qk_rope_head_dim)) {
    fill_rope_table(config, cos_sin_PR);
    positions.reserve(static_cast<std::size_t>(o.max_tokens));
    cache_rows.reserve(static_cast<std::size_t>(o.max_tokens));
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

  void count_experts() {
    const auto& offsets = buffers.block.moe.routing.offsets;
    for (std::size_t e = 0; e + 1 < offsets.size(); ++e) experts_read += offsets[e + 1] > offsets[e];
  }
};

std::int64_t Decoder::memory_needed(const ModelConfig& config, const Options& options) {
  return buffer_bytes(config, options) + table_bytes(config, options);
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
  const ModelConfig& m = s.config;
  const std::int64_t T = std::ssize(batch.ids), wanted = std::ssize(batch.wanted);
  s.place(batch);
  s.memory.release(0);
  s.buffers.take(s.memory, m, s.options, T);
  const std::int64_t mark = s.memory.mark();
  const Run run{.ctx = ctx,
                .config = m,
                .precision = s.options.precision,
                .weights = weights,
                .gradients = nullptr,
                .tokens = T,
                .sequences = 1,
                .segments = {},
                .positions_T = s.positions,
                .cos_sin_PR = s.cos_sin_PR,
                .storage = ActivationStorage::full,
                .tiles = nullptr,
                .nonfinite_tiles = &s.nonfinite_tiles};
  run.k().embedding_forward(ctx, run.weight(s.slabs.embedding), batch.ids, s.buffers.x_TD);
  for (std::size_t l = 0; l < static_cast<std::size_t>(m.num_hidden_layers); ++l) {
    const auto layer = static_cast<std::int64_t>(l);
    s.memory.release(mark);
    s.buffers.take_block(s.memory, m, s.options, layer, T);
    const LatentLayer latent{cache[l],         batch.segments,        s.cache_rows,         absorbed.k_up[l],
                             absorbed.v_up[l], s.buffers.q_latent_TX, s.buffers.o_latent_TX};
    block_forward({.run = run, .layer = layer, .slabs = s.slabs.blocks[l], .latent = &latent, .acts = s.buffers.block});
    if (m.is_moe_layer(layer)) s.count_experts();
    std::swap(s.buffers.x_TD, s.buffers.out_TD);
  }
  if (wanted == 0) return;
  const Mat last = s.buffers.out_TD.row_range(0, wanted), normed = s.buffers.wanted_TD.row_range(0, wanted);
  run.k().gather_rows(ctx, s.buffers.x_TD, batch.wanted, last);
  run.k().rms_norm_forward(ctx, last, run.weight(s.slabs.norm), m.rms_norm_eps, normed);
  linear_forward(run, normed, s.slabs.head, {}, logits.row_range(0, wanted));
}

}  // namespace finback::model
