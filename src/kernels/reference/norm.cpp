// RMSNorm (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019): y = w · round(x · r), r = rsqrt(mean x² + eps).
// Backward takes the rounding for the identity.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

#include <cmath>

namespace finback::kernels::reference_kernels {
namespace {

double inverse_rms(ConstMat x, std::int64_t t, double eps) {
  double sum = 0;
  for (std::int64_t d = 0; d < x.cols; ++d) sum += get(x, t, d) * get(x, t, d);
  return 1 / std::sqrt(sum / static_cast<double>(x.cols) + eps);
}

void rms_norm_forward(const Context&, ConstMat x, ConstMat w, double eps, Mat y) {
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const double r = inverse_rms(x, t, eps);
    for (std::int64_t d = 0; d < x.cols; ++d) put(y, t, d, get(w, 0, d) * round_to(y.dtype, get(x, t, d) * r));
  }
}

// dx = [addend +] r · (w·dy − x · r² · mean(w·dy·x)).
void rms_norm_backward_input(const Context&, ConstMat dy, ConstMat x, ConstMat w, double eps, ConstMat addend, Mat dx) {
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const double r = inverse_rms(x, t, eps);
    double along_x = 0;
    for (std::int64_t d = 0; d < x.cols; ++d) along_x += get(w, 0, d) * get(dy, t, d) * get(x, t, d);
    along_x *= r * r / static_cast<double>(x.cols);
    for (std::int64_t d = 0; d < x.cols; ++d) {
      const double g = r * (get(w, 0, d) * get(dy, t, d) - get(x, t, d) * along_x);
      put(dx, t, d, addend ? get(addend, t, d) + g : g);
    }
  }
}

// dw += Σ_t dy · round(x · r): the value that w multiplied.
void rms_norm_backward_weight(const Context& ctx, ConstMat dy, ConstMat x, double eps, Mat dw) {
  const core::ArenaScope scope(ctx.scratch);
  double* sum = ctx.scratch.take_array<double>(x.cols);
  for (std::int64_t d = 0; d < x.cols; ++d) sum[d] = 0;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const double r = inverse_rms(x, t, eps);
    for (std::int64_t d = 0; d < x.cols; ++d) sum[d] += get(dy, t, d) * round_to(x.dtype, get(x, t, d) * r);
  }
  for (std::int64_t d = 0; d < x.cols; ++d) put(dw, 0, d, get(dw, 0, d) + sum[d]);
}

}  // namespace

void add_norm(Table& table) {
  table.rms_norm_forward = rms_norm_forward;
  table.rms_norm_backward_input = rms_norm_backward_input;
  table.rms_norm_backward_weight = rms_norm_backward_weight;
}

}  // namespace finback::kernels::reference_kernels
