// SwiGLU (Shazeer, "GLU Variants Improve Transformer", 2020): a = silu(gate) · up, times the gate's weight of the slot.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

#include <cmath>

namespace finback::kernels::reference_kernels {
namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

void swiglu_forward(const Context&, ConstMat gu, ConstMat weight, Mat a) {
  for (std::int64_t s = 0; s < a.rows; ++s) {
    const double w = weight ? get(weight, 0, s) : 1;
    for (std::int64_t f = 0; f < a.cols; ++f) {
      const double gate = get(gu, s, f), up = get(gu, s, a.cols + f);
      put(a, s, f, gate * sigmoid(gate) * up * w);
    }
  }
}

// silu'(g) = σ(g) · (1 + g · (1 − σ(g))).
void swiglu_backward(const Context&, ConstMat da, ConstMat gu, ConstMat weight, Mat dgu, Mat dweight) {
  for (std::int64_t s = 0; s < da.rows; ++s) {
    const double w = weight ? get(weight, 0, s) : 1;
    double dw = 0;
    for (std::int64_t f = 0; f < da.cols; ++f) {
      const double gate = get(gu, s, f), up = get(gu, s, da.cols + f), d = get(da, s, f);
      const double sig = sigmoid(gate);
      dw += d * gate * sig * up;
      put(dgu, s, f, d * w * up * sig * (1 + gate * (1 - sig)));
      put(dgu, s, da.cols + f, d * w * gate * sig);
    }
    if (dweight) put(dweight, 0, s, dw);
  }
}

}  // namespace

void add_swiglu(Table& table) {
  table.swiglu_forward = swiglu_forward;
  table.swiglu_backward = swiglu_backward;
}

}  // namespace finback::kernels::reference_kernels
