// Plain helpers: y = a + b, and conversion between storage types.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

namespace finback::kernels::reference_kernels {
namespace {

void add(const Context&, ConstMat a, ConstMat b, Mat y) {
  for (std::int64_t t = 0; t < y.rows; ++t)
    for (std::int64_t d = 0; d < y.cols; ++d) put(y, t, d, get(a, t, d) + get(b, t, d));
}

void convert(const Context&, ConstMat x, Mat y) {
  for (std::int64_t t = 0; t < y.rows; ++t)
    for (std::int64_t d = 0; d < y.cols; ++d) put(y, t, d, get(x, t, d));
}

}  // namespace

void add_elementwise(Table& table) {
  table.add = add;
  table.convert = convert;
}

}  // namespace finback::kernels::reference_kernels
