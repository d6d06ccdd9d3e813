// Linear layers, dense and grouped: what each of the three products multiplies. The multiplication itself is product.h's.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/product.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

const char* element(ConstMat m, int64_t row) { return static_cast<const char*>(m.data) + row * m.stride * core::size_of(m.dtype); }

// The groups of forward and backward_input: each has rows of its own and a weight matrix of its own.
void multiply_by_weights(const Context& ctx, ConstMat a, const WeightView& w, Offsets offsets, bool weights_k_contiguous, ConstMat addend,
                         Mat c) {
  const int64_t mark = ctx.scratch.mark();
  Product p{};
  p.dtype = a.dtype;
  p.a_k_contiguous = true;
  p.a_stride = a.stride;
  p.b_k_contiguous = weights_k_contiguous;
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
    const char* w_g = static_cast<const char*>(w.data) + g * w.rows * w.cols * core::size_of(w.dtype);
    p.groups[p.group_count++] = {rows,
                                 a.cols,
                                 element(a, offset[g]),
                                 w_g,
                                 const_cast<char*>(element(c, offset[g])),
                                 addend.data ? element(addend, offset[g]) : nullptr};
  }
  multiply(ctx, p);
  ctx.scratch.release(mark);
}

void linear_forward(const Context& ctx, ConstMat x, const WeightView& w, Offsets offsets, ConstMat addend, Mat y) {
  if (x.dtype == DType::f64) return reference().linear_forward(ctx, x, w, offsets, addend, y);
  multiply_by_weights(ctx, x, w, offsets, /*weights_k_contiguous=*/true, addend, y);
}

void linear_backward_input(const Context& ctx, ConstMat dy, const WeightView& w, Offsets offsets, ConstMat addend, Mat dx) {
  if (dy.dtype == DType::f64) return reference().linear_backward_input(ctx, dy, w, offsets, addend, dx);
  multiply_by_weights(ctx, dy, w, offsets, /*weights_k_contiguous=*/false, addend, dx);
}

void linear_backward_weight(const Context& ctx, ConstMat dy, ConstMat x, Offsets offsets, Mat dw) {
  if (dy.dtype == DType::f64) return reference().linear_backward_weight(ctx, dy, x, offsets, dw);
  const int64_t mark = ctx.scratch.mark();
  Product p{};
  p.dtype = dy.dtype;
  p.a_k_contiguous = false;
  p.a_stride = dy.stride;
  p.b_k_contiguous = false;
  p.b_stride = x.stride;
  p.n = x.cols;
  p.c_dtype = dw.dtype;
  p.c_stride = dw.stride;
  p.addend_stride = dw.stride;
  const int64_t groups = static_cast<int64_t>(offsets.size()) - 1;
  p.groups = static_cast<Group*>(ctx.scratch.take(groups * static_cast<int64_t>(sizeof(Group))));
  const int64_t* offset = offsets.data();
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t rows = offset[g + 1] - offset[g];
    if (rows == 0) continue;
    const char* dw_g = element(dw, g * dy.cols);
    p.groups[p.group_count++] = {dy.cols, rows, element(dy, offset[g]), element(x, offset[g]), const_cast<char*>(dw_g), dw_g};
  }
  multiply(ctx, p);
  ctx.scratch.release(mark);
}

}  // namespace

void add_linear(Table& table) {
  table.linear_forward = linear_forward;
  table.linear_backward_input = linear_backward_input;
  table.linear_backward_weight = linear_backward_weight;
}

}  // namespace finback::kernels::FB_ISA
