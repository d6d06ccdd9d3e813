// Plain helpers: y = a + b.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

template <class T>
vf load_any(const T* p) {
  if constexpr (sizeof(T) == 4) return load(p);
  else return load_bf16(p);
}
template <class T>
void store_any(T* p, vf x) {
  if constexpr (sizeof(T) == 4) store(p, x);
  else store_bf16(p, x);
}

template <class T>
void add_row(const T* a, const T* b, T* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_any(y + i, load_any(a + i) + load_any(b + i));
  if (i < n) {
    T ta[kLanes] = {}, tb[kLanes] = {}, ty[kLanes];
    memcpy(ta, a + i, static_cast<size_t>(n - i) * sizeof(T));
    memcpy(tb, b + i, static_cast<size_t>(n - i) * sizeof(T));
    store_any(ty, load_any(ta) + load_any(tb));
    memcpy(y + i, ty, static_cast<size_t>(n - i) * sizeof(T));
  }
}

struct Add {
  ConstMat a, b;
  Mat y;
};

void add_task(void* argument, int64_t task, int) {
  const Add& s = *static_cast<const Add*>(argument);
  if (s.y.dtype == DType::bf16) add_row(s.a.row<uint16_t>(task), s.b.row<uint16_t>(task), s.y.row<uint16_t>(task), s.y.cols);
  else add_row(s.a.row<float>(task), s.b.row<float>(task), s.y.row<float>(task), s.y.cols);
}

void add(const Context& ctx, ConstMat a, ConstMat b, Mat y) {
  Add s{a, b, y};
  ctx.team.run(y.rows, add_task, &s);
}

}  // namespace

void add_elementwise(Table& table) { table.add = add; }

}  // namespace finback::kernels::FB_ISA
