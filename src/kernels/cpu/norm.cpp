// RMSNorm, as in kernels/reference/norm.cpp, with sums in f32.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

template <class T>
float inverse_rms(const T* x, int64_t n, float eps) {
  const float squares = sum_over(n, [&](int64_t i, int64_t lanes) {
    const vf v = load(x + i, lanes);
    return v * v;
  });
  return 1 / __builtin_sqrtf(squares / static_cast<float>(n) + eps);
}

template <class T>
void forward_as(const Context& ctx, ConstMat x, ConstMat w, float eps, Mat y) {
  const int64_t n = x.cols;
  const T* pw = w.row<T>(0);
  for_ranges(ctx.team, split_rows(x.rows, n), [&](Range rows, int) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      const T* px = x.row<T>(t);
      T* py = y.row<T>(t);
      const float r = inverse_rms(px, n, eps);
      for_vectors(n, [&](int64_t i, int64_t lanes) { store(py + i, load(pw + i, lanes) * round_to<T>(load(px + i, lanes) * r), lanes); });
    }
  });
}

template <class T>
void backward_input_as(const Context& ctx, ConstMat dy, ConstMat x, ConstMat w, float eps, ConstMat addend, Mat dx) {
  const int64_t n = x.cols;
  const T* pw = w.row<T>(0);
  for_ranges(ctx.team, split_rows(x.rows, n), [&](Range rows, int) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      const T *px = x.row<T>(t), *pdy = dy.row<T>(t), *pa = addend ? addend.row<T>(t) : nullptr;
      T* pdx = dx.row<T>(t);
      const float r = inverse_rms(px, n, eps);
      const float dot =
          sum_over(n, [&](int64_t i, int64_t lanes) { return load(pw + i, lanes) * load(pdy + i, lanes) * load(px + i, lanes); });
      const float along_x = dot * (r * r / static_cast<float>(n));
      for_vectors(n, [&](int64_t i, int64_t lanes) {
        vf g = r * (load(pw + i, lanes) * load(pdy + i, lanes) - load(px + i, lanes) * along_x);
        if (pa) g += load(pa + i, lanes);
        store(pdx + i, g, lanes);
      });
    }
  });
}

// Rows are summed in at most kBlocks runs, which are added in order: the runs depend on the number of rows alone.
constexpr int64_t kBlocks = 64, kBlockRows = 128;

template <class T>
void backward_weight_as(const Context& ctx, ConstMat dy, ConstMat x, float eps, Mat dw) {
  const int64_t n = x.cols, even = (x.rows + kBlocks - 1) / kBlocks;
  const Split split{x.rows, even > kBlockRows ? even : kBlockRows};
  const core::ArenaScope scope(ctx.scratch);
  float* partial = ctx.scratch.take_array<float>(split.tasks() * n);
  for_ranges(ctx.team, split, [&](Range rows, int) {
    float* sum = partial + rows.begin / split.per_task * n;
    memset(sum, 0, static_cast<size_t>(n) * sizeof(float));
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      const T *px = x.row<T>(t), *pdy = dy.row<T>(t);
      const float r = inverse_rms(px, n, eps);
      for_vectors(n, [&](int64_t i, int64_t lanes) {
        store(sum + i, load(sum + i, lanes) + load(pdy + i, lanes) * round_to<T>(load(px + i, lanes) * r), lanes);
      });
    }
  });
  float* out = dw.row<float>(0);
  for (int64_t i = 0; i < n; i += kLanes) {
    vf sum = {};
    for (int64_t b = 0; b < split.tasks(); ++b) sum += load(partial + b * n + i, n - i);
    store(out + i, load(out + i, n - i) + sum, n - i);
  }
}

void forward(const Context& ctx, ConstMat x, ConstMat w, double eps, Mat y) {
  if (x.dtype == DType::bf16) forward_as<uint16_t>(ctx, x, w, static_cast<float>(eps), y);
  else if (x.dtype == DType::f32) forward_as<float>(ctx, x, w, static_cast<float>(eps), y);
  else reference().rms_norm_forward(ctx, x, w, eps, y);
}

void backward_input(const Context& ctx, ConstMat dy, ConstMat x, ConstMat w, double eps, ConstMat addend, Mat dx) {
  if (x.dtype == DType::bf16) backward_input_as<uint16_t>(ctx, dy, x, w, static_cast<float>(eps), addend, dx);
  else if (x.dtype == DType::f32) backward_input_as<float>(ctx, dy, x, w, static_cast<float>(eps), addend, dx);
  else reference().rms_norm_backward_input(ctx, dy, x, w, eps, addend, dx);
}

void backward_weight(const Context& ctx, ConstMat dy, ConstMat x, double eps, Mat dw) {
  if (x.dtype == DType::bf16) backward_weight_as<uint16_t>(ctx, dy, x, static_cast<float>(eps), dw);
  else if (x.dtype == DType::f32) backward_weight_as<float>(ctx, dy, x, static_cast<float>(eps), dw);
  else reference().rms_norm_backward_weight(ctx, dy, x, eps, dw);
}

}  // namespace

void add_norm(Table& table) {
  table.rms_norm_forward = forward;
  table.rms_norm_backward_input = backward_input;
  table.rms_norm_backward_weight = backward_weight;
}

}  // namespace finback::kernels::FB_ISA
