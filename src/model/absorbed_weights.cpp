#include "model/absorbed_weights.h"

#include "model/run.h"

#include <cstring>

namespace finback::model {
namespace {

using core::DType;
using core::Mat;
using kernels::Context;
using kernels::WeightView;

WeightView view(DType dtype, const void* data, std::int64_t heads, std::int64_t rows, std::int64_t cols) {
  return {.data = data, .dtype = dtype, .groups = heads, .rows = rows, .cols = cols};
}
WeightView k_up_view(const ModelConfig& m, DType dtype, const void* data) {
  return view(dtype, data, m.num_attention_heads, m.kv_lora_rank, m.qk_nope_head_dim);
}
WeightView v_up_view(const ModelConfig& m, DType dtype, const void* data) {
  return view(dtype, data, m.num_attention_heads, m.v_head_dim, m.kv_lora_rank);
}

WeightView packed(const Context& ctx, WeightView w, core::Arena& memory) {
  void* place = memory.take(ctx.kernels.packed_bytes(ctx, w));
  ctx.kernels.pack_weights(ctx, w, place);
  w.data = place;
  w.packed = true;
  return w;
}

void copy_turned(core::ConstMat from, Mat to) {
  const auto size = static_cast<std::size_t>(core::size_of(from.dtype));
  for (std::int64_t r = 0; r < from.rows; ++r)
    for (std::int64_t c = 0; c < from.cols; ++c) std::memcpy(to.at(c, r), from.at(r, c), size);
}

}  // namespace

std::int64_t absorbed_bytes(const Context& ctx, const ModelConfig& m, DType dtype) {
  constexpr std::int64_t kAlignment = 64;
  return m.blocks() * (ctx.kernels.packed_bytes(ctx, k_up_view(m, dtype, nullptr)) +
                       ctx.kernels.packed_bytes(ctx, v_up_view(m, dtype, nullptr)) + 2 * kAlignment);
}

AbsorbedWeights absorb_weights(const Context& ctx, const ModelConfig& m, const ParameterList& list, const SlabBuffers& weights,
                               core::Arena& memory) {
  const std::int64_t N = m.qk_nope_head_dim, V = m.v_head_dim, C = m.kv_lora_rank, H = m.num_attention_heads;
  AbsorbedWeights out;
  for (const BlockSlabs& block : find_slabs(m, list).blocks) {
    const Mat kv_b = weights.slabs[static_cast<std::size_t>(block.kv_b)];
    FB_CHECK(weights.packed.empty() || !weights.packed[static_cast<std::size_t>(block.kv_b)], "kv_b_proj is packed already");
    const core::ArenaScope scope(ctx.scratch);
    const Mat k_up = ctx.scratch.take_mat(kv_b.dtype, H * C, N), v_up = ctx.scratch.take_mat(kv_b.dtype, H * V, C);
    for (std::int64_t h = 0; h < H; ++h) {
      copy_turned(kv_b.row_range(h * (N + V), N), k_up.row_range(h * C, C));
      std::memcpy(v_up.at(h * V, 0), kv_b.at(h * (N + V) + N, 0), static_cast<std::size_t>(V * C * core::size_of(kv_b.dtype)));
    }
    out.k_up.push_back(packed(ctx, k_up_view(m, kv_b.dtype, k_up.data), memory));
    out.v_up.push_back(packed(ctx, v_up_view(m, kv_b.dtype, v_up.data), memory));
  }
  return out;
}

}  // namespace finback::model
