// Linear layers, dense and grouped: the three products of a weight matrix.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

namespace finback::kernels::reference_kernels {
namespace {

// y_SN = [addend_SN +] x_SK · w[group]_NKᵀ
void linear_forward(const Context&, ConstMat x, const WeightView& w, Offsets offsets, ConstMat addend, Mat y) {
  for (std::int64_t g = 0; g < w.groups; ++g) {
    const ConstMat w_NK = w.group(g);
    for (std::int64_t s = offsets[g]; s < offsets[g + 1]; ++s)
      for (std::int64_t n = 0; n < w.rows; ++n) {
        double sum = 0;
        for (std::int64_t k = 0; k < w.cols; ++k) sum += get(x, s, k) * get(w_NK, n, k);
        put(y, s, n, addend ? get(addend, s, n) + sum : sum);
      }
  }
}

// y_T·[g · y_step … +N] = x_T·[g · x_step … +K] · w[g]_NKᵀ
void linear_slices(const Context& ctx, ConstMat x, std::int64_t x_step, const WeightView& w, Mat y, std::int64_t y_step) {
  const std::int64_t offsets[] = {0, x.rows};
  for (std::int64_t g = 0; g < w.groups; ++g)
    linear_forward(ctx, x.columns(g * x_step, w.cols), {.data = w.group(g).data, .dtype = w.dtype, .rows = w.rows, .cols = w.cols}, offsets,
                   {}, y.columns(g * y_step, w.rows));
}

// dx_SK = [addend_SK +] dy_SN · w[group]_NK
void linear_backward_input(const Context&, ConstMat dy, const WeightView& w, Offsets offsets, ConstMat addend, Mat dx) {
  for (std::int64_t g = 0; g < w.groups; ++g) {
    const ConstMat w_NK = w.group(g);
    for (std::int64_t s = offsets[g]; s < offsets[g + 1]; ++s)
      for (std::int64_t k = 0; k < w.cols; ++k) {
        double sum = 0;
        for (std::int64_t n = 0; n < w.rows; ++n) sum += get(dy, s, n) * get(w_NK, n, k);
        put(dx, s, k, addend ? get(addend, s, k) + sum : sum);
      }
  }
}

// dw[group]_NK += dy_SNᵀ · x_SK
void linear_backward_weight(const Context&, ConstMat dy, ConstMat x, Offsets offsets, Mat dw) {
  const auto groups = static_cast<std::int64_t>(offsets.size()) - 1;
  for (std::int64_t g = 0; g < groups; ++g)
    for (std::int64_t n = 0; n < dy.cols; ++n)
      for (std::int64_t k = 0; k < x.cols; ++k) {
        double sum = 0;
        for (std::int64_t s = offsets[g]; s < offsets[g + 1]; ++s) sum += get(dy, s, n) * get(x, s, k);
        put(dw, g * dy.cols + n, k, get(dw, g * dy.cols + n, k) + sum);
      }
}

}  // namespace

void add_linear(Table& table) {
  table.linear_forward = linear_forward;
  table.linear_slices = linear_slices;
  table.linear_backward_input = linear_backward_input;
  table.linear_backward_weight = linear_backward_weight;
}

}  // namespace finback::kernels::reference_kernels
