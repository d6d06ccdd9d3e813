// Linear layers: every table against the reference twin, and the exactness that kernels.h promises.
#include "tests/kernels/kernel_case.h"

namespace finback::kernels::test {
namespace {

TEST(Linear, TheReferenceIsTheThreeProductsOfTheDefinition) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  // Two experts of 2 x 3; rows 0 and 1 go to expert 0, row 2 to expert 1.
  const double w[] = {1, 2, 3, 4, 5, 6, /**/ -1, 0, 1, 2, 0, -2};
  const double x[] = {1, 0, -1, 2, 1, 0, 1, 2, 3};
  const std::vector<std::int64_t> offsets = {0, 2, 3};
  const WeightView view{w, DType::f64, 2, 2, 3};
  Fenced y = constant_matrix(DType::f64, 3, 2, 10), dx(DType::f64, 3, 3), dw = constant_matrix(DType::f64, 4, 3, 100);
  ctx.kernels.linear_forward(ctx, core::const_mat(x, DType::f64, 3, 3), view, offsets, y, y);
  const double want_y[] = {10 - 2, 10 - 2, 10 + 4, 10 + 13, 10 + 2, 10 - 4};
  EXPECT_TRUE(same_bits(y, core::const_mat(want_y, DType::f64, 3, 2)));

  const double dy[] = {1, 1, 0, 2, 3, -1};
  ctx.kernels.linear_backward_input(ctx, core::const_mat(dy, DType::f64, 3, 2), view, offsets, {}, dx);
  const double want_dx[] = {5, 7, 9, 8, 10, 12, -5, 0, 5};
  EXPECT_TRUE(same_bits(dx, core::const_mat(want_dx, DType::f64, 3, 3)));

  ctx.kernels.linear_backward_weight(ctx, core::const_mat(dy, DType::f64, 3, 2), core::const_mat(x, DType::f64, 3, 3), offsets, dw);
  const double want_dw[] = {101, 100, 99, 105, 102, 99, 103, 106, 109, 99, 98, 97};
  EXPECT_TRUE(same_bits(dw, core::const_mat(want_dw, DType::f64, 4, 3)));
  EXPECT_TRUE(y.fences_stand() && dx.fences_stand() && dw.fences_stand());
}

}  // namespace
}  // namespace finback::kernels::test
