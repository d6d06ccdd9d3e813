// The three products of FP8 codes with scales [V3 §3.3.2]. A code is exact in bf16 and the product of two is exact in f32, so that
// decoding and multiplying as bf16 has the numerics that the scheme defines. The multiplication itself is product.h's.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/linear_groups.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

void multiply(const Context& ctx, const Product& p) {
  if constexpr (kMultipliesPairs) multiply_as<uint16_t, true, true>(ctx, p);
  else multiply_as<float, false, true>(ctx, p);
}

// index[i] = the row tile in which row i of a group of weights lies.
const int32_t* row_tile_index(const Context& ctx, const WeightView& w) {
  auto* index = ctx.scratch.take_array<int32_t>(w.rows);
  for (int64_t n = 0; n < w.rows; ++n) index[n] = static_cast<int32_t>(row_tile_of(n, w.parts));
  return index;
}

// index[i] = i / 128, for n lines.
const int32_t* tile_index(const Context& ctx, int64_t n) {
  auto* index = ctx.scratch.take_array<int32_t>(n);
  for (int64_t i = 0; i < n; ++i) index[i] = static_cast<int32_t>(i / kTile);
  return index;
}

void scaled_forward(const Context& ctx, const ScaledMat& x, const WeightView& w, Offsets offsets, ConstMat addend, const Accumulation& how,
                    Mat y) {
  if (how.bits != 0) return reference().scaled_forward(ctx, x, w, offsets, addend, how, y);
  const int64_t mark = ctx.scratch.mark();
  Product p = product_by_weights(ctx, x, w, offsets, /*weights_k_contiguous=*/true, addend, y);
  p.a_scales = {.line_stride = x.scales.stride, .run_stride = 1};
  p.b_scales = {.line_stride = w.scales.stride, .run_stride = 1, .line_index = row_tile_index(ctx, w)};
  multiply(ctx, p);
  ctx.scratch.release(mark);
}

// The sum runs over the rows of w: a run ends where a tile of dy or a block of w does.
void scaled_backward_input(const Context& ctx, const ScaledMat& dy, const WeightView& w, Offsets offsets, ConstMat addend,
                           const Accumulation& how, Mat dx) {
  if (how.bits != 0) return reference().scaled_backward_input(ctx, dy, w, offsets, addend, how, dx);
  const int64_t mark = ctx.scratch.mark();
  Product p = product_by_weights(ctx, dy, w, offsets, /*weights_k_contiguous=*/false, addend, dx);
  const int32_t* row_tile = row_tile_index(ctx, w);
  const int64_t most = tiles_of(w.rows) + row_tiles(w.rows, w.parts);
  auto* begin = ctx.scratch.take_array<int64_t>(most + 1);
  auto *a_tile = ctx.scratch.take_array<int32_t>(most), *b_tile = ctx.scratch.take_array<int32_t>(most);
  int64_t runs = 0;
  for (int64_t n = 0; n < w.rows; ++n) {
    if (n % kTile != 0 && row_tile[n] == row_tile[n - 1]) continue;
    begin[runs] = n;
    a_tile[runs] = static_cast<int32_t>(n / kTile);
    b_tile[runs++] = row_tile[n];
  }
  begin[runs] = w.rows;
  p.run_begin = begin;
  p.a_scales = {.line_stride = dy.scales.stride, .run_stride = 1, .run_index = a_tile};
  p.b_scales = {.line_stride = 1, .run_stride = w.scales.stride, .line_index = tile_index(ctx, w.cols), .run_index = b_tile};
  multiply(ctx, p);
  ctx.scratch.release(mark);
}

void scaled_backward_weight(const Context& ctx, const ScaledMat& dy, const ScaledMat& x, Offsets offsets, const Accumulation& how, Mat dw) {
  if (how.bits != 0) return reference().scaled_backward_weight(ctx, dy, x, offsets, how, dw);
  const int64_t mark = ctx.scratch.mark();
  Product p = product_over_rows(ctx, dy, x, offsets, dw);
  p.a_scales = {.line_stride = 1, .run_stride = dy.scales.stride};
  p.b_scales = {.line_stride = 1, .run_stride = x.scales.stride};
  multiply(ctx, p);
  ctx.scratch.release(mark);
}

}  // namespace

void add_scaled_linear(Table& table) {
  table.scaled_forward = scaled_forward;
  table.scaled_backward_input = scaled_backward_input;
  table.scaled_backward_weight = scaled_backward_weight;
}

}  // namespace finback::kernels::FB_ISA
