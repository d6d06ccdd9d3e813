// One group of a linear layer, which is the dense case of the grouped products in kernels.h.
#pragma once

#include "model/run.h"

#include <array>

namespace finback::model {

inline std::array<std::int64_t, 2> all_rows(core::ConstMat x) { return {0, x.rows}; }

// y = [addend +] x · wᵀ
inline void linear_forward(const Run& run, core::ConstMat x, int slab, core::ConstMat addend, core::Mat y) {
  run.k().linear_forward(run.ctx, x, run.linear(slab), all_rows(x), addend, y);
}
// dx = [addend +] dy · w
inline void linear_backward_input(const Run& run, core::ConstMat dy, int slab, core::ConstMat addend, core::Mat dx) {
  run.k().linear_backward_input(run.ctx, dy, run.linear(slab), all_rows(dy), addend, dx);
}
// dw += dyᵀ · x
inline void linear_backward_weight(const Run& run, core::ConstMat dy, core::ConstMat x, int slab) {
  run.k().linear_backward_weight(run.ctx, dy, x, all_rows(dy), run.gradient(slab));
}

}  // namespace finback::model
