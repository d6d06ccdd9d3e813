// Linear layers in f32 and bf16, dense and grouped. The multiplication itself is product.h's.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/linear_groups.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

void multiply(const Context& ctx, const Product& p) {
#if !defined(__AMX_BF16__)
  if (p.a_dtype == DType::f32) return multiply_as<float, false, false>(ctx, p);
#endif
  multiply_as<uint16_t, kMultipliesPairs, false>(ctx, p);
}

// The table that multiplies a type which is not for this one.
const Table* other_table(DType type) {
  if (type == DType::f64) return &reference();
  if (type == DType::f32 && kMatrices) return &by_name("avx512bf16");
  return nullptr;
}

void linear_forward(const Context& ctx, ConstMat x, const WeightView& w, Offsets offsets, ConstMat addend, Mat y) {
  if (const Table* other = other_table(x.dtype)) return other->linear_forward(ctx, x, w, offsets, addend, y);
  const int64_t mark = ctx.scratch.mark();
  multiply(ctx, product_by_weights(ctx, {x, {}}, w, offsets, /*weights_k_contiguous=*/true, addend, y));
  ctx.scratch.release(mark);
}

void linear_slices(const Context& ctx, ConstMat x, int64_t x_step, const WeightView& w, Mat y, int64_t y_step) {
  if (const Table* other = other_table(x.dtype)) return other->linear_slices(ctx, x, x_step, w, y, y_step);
  const int64_t mark = ctx.scratch.mark();
  multiply(ctx, product_by_slices(ctx, x, x_step, w, y, y_step));
  ctx.scratch.release(mark);
}

void linear_backward_input(const Context& ctx, ConstMat dy, const WeightView& w, Offsets offsets, ConstMat addend, Mat dx) {
  if (const Table* other = other_table(dy.dtype)) return other->linear_backward_input(ctx, dy, w, offsets, addend, dx);
  const int64_t mark = ctx.scratch.mark();
  multiply(ctx, product_by_weights(ctx, {dy, {}}, w, offsets, /*weights_k_contiguous=*/false, addend, dx));
  ctx.scratch.release(mark);
}

void linear_backward_weight(const Context& ctx, ConstMat dy, ConstMat x, Offsets offsets, Mat dw) {
  if (const Table* other = other_table(dy.dtype)) return other->linear_backward_weight(ctx, dy, x, offsets, dw);
  const int64_t mark = ctx.scratch.mark();
  multiply(ctx, product_over_rows(ctx, {dy, {}}, {x, {}}, offsets, dw));
  ctx.scratch.release(mark);
}

}  // namespace

void add_linear(Table& table) {
  table.linear_forward = linear_forward;
  table.linear_slices = linear_slices;
  table.linear_backward_input = linear_backward_input;
  table.linear_backward_weight = linear_backward_weight;
}

}  // namespace finback::kernels::FB_ISA
