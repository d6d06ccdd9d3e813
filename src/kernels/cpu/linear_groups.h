// What the products of linear layers multiply, dense or grouped: which rows meet which weights. Shared by the plain and the scaled
// products. Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "kernels/cpu/product.h"

namespace {

using finback::core::ConstMat;
using finback::core::Mat;
using finback::kernels::Offsets;
using finback::kernels::ScaledMat;
using finback::kernels::WeightView;

inline const char* element(ConstMat m, int64_t row) {
  return static_cast<const char*>(m.data) + row * m.stride * finback::core::size_of(m.dtype);
}
// Bytes of one group's packed weights.
inline int64_t packed_group_bytes(const WeightView& w) {
  using finback::core::DType;
  if (w.dtype != DType::f32 && w.dtype != DType::bf16) return packed_codes_of(w.rows, w.cols);
  return ceil_div(w.rows, kPanel) * kPanel * units_of(w.cols, w.dtype == DType::bf16 && kMultipliesPairs) * 4;
}
inline const float* scales_at(ConstMat scales, int64_t row) { return scales.data ? scales.row<float>(row) : nullptr; }

inline int64_t group_bytes(const WeightView& w) {
  return w.packed ? packed_group_bytes(w) : w.rows * w.cols * finback::core::size_of(w.dtype);
}

// forward and backward_input: each group has rows of its own and a weight matrix of its own. The groups are taken from ctx.scratch.
inline Product product_by_weights(const Context& ctx, const ScaledMat& a, const WeightView& w, Offsets offsets, bool weights_k_contiguous,
                                  ConstMat addend, Mat c) {
  Product p{};
  p.a_dtype = a.codes.dtype;
  p.b_dtype = w.dtype;
  p.a_k_contiguous = true;
  p.a_stride = a.codes.stride;
  p.b_k_contiguous = weights_k_contiguous;
  p.b_packed = w.packed;
  p.b_stride = w.cols;
  p.n = c.cols;
  p.c_dtype = c.dtype;
  p.c_stride = c.stride;
  p.addend_stride = addend.stride;
  p.groups = static_cast<Group*>(ctx.scratch.take(w.groups * static_cast<int64_t>(sizeof(Group))));
  const int64_t* offset = offsets.data();
  for (int64_t g = 0; g < w.groups; ++g) {
    const int64_t rows = offset[g + 1] - offset[g];
    if (rows == 0) continue;
    p.groups[p.group_count++] = {.m = rows,
                                 .k = a.codes.cols,
                                 .a = element(a.codes, offset[g]),
                                 .b = static_cast<const char*>(w.data) + g * group_bytes(w),
                                 .c = const_cast<char*>(element(c, offset[g])),
                                 .addend = addend.data ? element(addend, offset[g]) : nullptr,
                                 .a_scale = scales_at(a.scales, offset[g]),
                                 .b_scale = scales_at(w.scales, g * (w.scales.rows / w.groups))};
  }
  return p;
}

// Each group has all rows, columns of its own on either side and a weight matrix of its own.
inline Product product_by_slices(const Context& ctx, ConstMat x, int64_t x_step, const WeightView& w, Mat y, int64_t y_step) {
  const int64_t rows[] = {0, x.rows};
  const WeightView first{.data = w.data, .dtype = w.dtype, .rows = w.rows, .cols = w.cols, .packed = w.packed};
  Product p = product_by_weights(ctx, {x.columns(0, w.cols), {}}, first, rows, /*weights_k_contiguous=*/true, {}, y.columns(0, w.rows));
  if (p.group_count == 0) return p;
  const Group g0 = p.groups[0];
  p.groups = static_cast<Group*>(ctx.scratch.take(w.groups * static_cast<int64_t>(sizeof(Group))));
  for (p.group_count = 0; p.group_count < w.groups; ++p.group_count) {
    Group& g = p.groups[p.group_count] = g0;
    g.a += p.group_count * x_step * finback::core::size_of(x.dtype);
    g.b += p.group_count * group_bytes(w);
    g.c += p.group_count * y_step * finback::core::size_of(y.dtype);
  }
  return p;
}

// backward_weight: each group has rows of its own, over which its matrix of dw is summed; with scales, tiles of its own too.
inline Product product_over_rows(const Context& ctx, const ScaledMat& dy, const ScaledMat& x, Offsets offsets, Mat dw) {
  Product p{};
  p.a_dtype = dy.codes.dtype;
  p.b_dtype = x.codes.dtype;
  p.a_k_contiguous = false;
  p.a_stride = dy.codes.stride;
  p.b_k_contiguous = false;
  p.b_stride = x.codes.stride;
  p.n = x.codes.cols;
  p.c_dtype = dw.dtype;
  p.c_stride = dw.stride;
  p.addend_stride = dw.stride;
  const int64_t groups = static_cast<int64_t>(offsets.size()) - 1;
  p.groups = static_cast<Group*>(ctx.scratch.take(groups * static_cast<int64_t>(sizeof(Group))));
  const int64_t* offset = offsets.data();
  int64_t tile = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t rows = offset[g + 1] - offset[g];
    if (rows == 0) continue;
    const char* dw_g = element(dw, g * dy.codes.cols);
    p.groups[p.group_count++] = {.m = dy.codes.cols,
                                 .k = rows,
                                 .a = element(dy.codes, offset[g]),
                                 .b = element(x.codes, offset[g]),
                                 .c = const_cast<char*>(dw_g),
                                 .addend = dw_g,
                                 .a_scale = scales_at(dy.scales, tile),
                                 .b_scale = scales_at(x.scales, tile)};
    tile += finback::kernels::tiles_of(rows);
  }
  return p;
}

}  // namespace
