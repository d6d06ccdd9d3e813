// Plain helpers: y = a + b, and conversion between storage types.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

template <class T>
void add_as(const Context& ctx, ConstMat a, ConstMat b, Mat y) {
  const bool gapless = a.contiguous() && b.contiguous() && y.contiguous();
  for_elements(ctx.team, y.rows, y.cols, gapless, [&](int64_t row, Range columns) {
    const T *pa = a.row<T>(row), *pb = b.row<T>(row);
    T* py = y.row<T>(row);
    for_vectors(columns.end - columns.begin, [&](int64_t at, int64_t lanes) {
      const int64_t i = columns.begin + at;
      store(py + i, load(pa + i, lanes) + load(pb + i, lanes), lanes);
    });
  });
}

void add(const Context& ctx, ConstMat a, ConstMat b, Mat y) {
  if (y.dtype == DType::bf16) add_as<uint16_t>(ctx, a, b, y);
  else if (y.dtype == DType::f32) add_as<float>(ctx, a, b, y);
  else reference().add(ctx, a, b, y);
}

template <class X, class Y>
void convert_as(const Context& ctx, ConstMat x, Mat y) {
  for_elements(ctx.team, y.rows, y.cols, x.contiguous() && y.contiguous(), [&](int64_t row, Range columns) {
    const X* px = x.row<X>(row);
    Y* py = y.row<Y>(row);
    for_vectors(columns.end - columns.begin,
                [&](int64_t at, int64_t lanes) { store(py + columns.begin + at, load(px + columns.begin + at, lanes), lanes); });
  });
}

void convert(const Context& ctx, ConstMat x, Mat y) {
  const bool x16 = x.dtype == DType::bf16, y16 = y.dtype == DType::bf16;
  if ((!x16 && x.dtype != DType::f32) || (!y16 && y.dtype != DType::f32)) reference().convert(ctx, x, y);
  else if (x16) y16 ? convert_as<uint16_t, uint16_t>(ctx, x, y) : convert_as<uint16_t, float>(ctx, x, y);
  else y16 ? convert_as<float, uint16_t>(ctx, x, y) : convert_as<float, float>(ctx, x, y);
}

}  // namespace

void add_elementwise(Table& table) {
  table.add = add;
  table.convert = convert;
}

}  // namespace finback::kernels::FB_ISA
