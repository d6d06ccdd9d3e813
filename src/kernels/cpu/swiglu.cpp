// SwiGLU, as in kernels/reference/swiglu.cpp.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

vf sigmoid(vf x) { return 1 / (1 + vexp(-x)); }

template <class T>
void forward_as(const Context& ctx, ConstMat gu, ConstMat weight, Mat a) {
  const int64_t n = a.cols;
  for_ranges(ctx.team, split_rows(a.rows, 2 * n), [&](Range rows, int) {
    for (int64_t s = rows.begin; s < rows.end; ++s) {
      const T *gate = gu.row<T>(s), *up = gate + n;
      T* out = a.row<T>(s);
      const float w = weight ? weight.row<float>(0)[s] : 1;
      for_vectors(n, [&](int64_t i, int64_t lanes) {
        const vf g = load(gate + i, lanes);
        store(out + i, g * sigmoid(g) * load(up + i, lanes) * w, lanes);
      });
    }
  });
}

template <class T>
void backward_as(const Context& ctx, ConstMat da, ConstMat gu, ConstMat weight, Mat dgu, Mat dweight) {
  const int64_t n = da.cols;
  for_ranges(ctx.team, split_rows(da.rows, 3 * n), [&](Range rows, int) {
    for (int64_t s = rows.begin; s < rows.end; ++s) {
      const T *gate = gu.row<T>(s), *up = gate + n, *pda = da.row<T>(s);
      T *dgate = dgu.row<T>(s), *dup = dgate + n;
      const float w = weight ? weight.row<float>(0)[s] : 1;
      const float dw = sum_over(n, [&](int64_t i, int64_t lanes) {
        const vf g = load(gate + i, lanes), u = load(up + i, lanes), d = load(pda + i, lanes);
        const vf sig = sigmoid(g), silu = g * sig;
        store(dgate + i, d * w * u * sig * (1 + g * (1 - sig)), lanes);
        store(dup + i, d * w * silu, lanes);
        return d * silu * u;
      });
      if (dweight) dweight.row<float>(0)[s] = dw;
    }
  });
}

void forward(const Context& ctx, ConstMat gu, ConstMat weight, Mat a) {
  if (a.dtype == DType::bf16) forward_as<uint16_t>(ctx, gu, weight, a);
  else if (a.dtype == DType::f32) forward_as<float>(ctx, gu, weight, a);
  else reference().swiglu_forward(ctx, gu, weight, a);
}

void backward(const Context& ctx, ConstMat da, ConstMat gu, ConstMat weight, Mat dgu, Mat dweight) {
  if (da.dtype == DType::bf16) backward_as<uint16_t>(ctx, da, gu, weight, dgu, dweight);
  else if (da.dtype == DType::f32) backward_as<float>(ctx, da, gu, weight, dgu, dweight);
  else reference().swiglu_backward(ctx, da, gu, weight, dgu, dweight);
}

}  // namespace

void add_swiglu(Table& table) {
  table.swiglu_forward = forward;
  table.swiglu_backward = backward;
}

}  // namespace finback::kernels::FB_ISA
