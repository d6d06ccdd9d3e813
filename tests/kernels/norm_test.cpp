#include "tests/kernels/gradient.h"
#include "tests/kernels/rows.h"

#include <gtest/gtest.h>

namespace finback::kernels::test {
namespace {

TEST(RmsNormReference, BackwardMatchesCentralDifferences) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  constexpr std::int64_t T = 3, D = 7;
  const double eps = 1e-2;
  auto x = normals(T * D, 1), w = normals(D, 2), dy = normals(T * D, 3), addend = normals(T * D, 4);
  std::vector<double> y(T * D), dx(T * D), dw = normals(D, 5);
  const auto loss = [&] {
    ctx.kernels.rms_norm_forward(ctx, view(x, T, D), view(w, 1, D), eps, view(y, T, D));
    return dot(y, dy);
  };
  ctx.kernels.rms_norm_backward_input(ctx, view(dy, T, D), view(x, T, D), view(w, 1, D), eps, {}, view(dx, T, D));
  EXPECT_LT(gradient_error(x, dx, loss), kGradientError);
  auto with_addend = dx;
  ctx.kernels.rms_norm_backward_input(ctx, view(dy, T, D), view(x, T, D), view(w, 1, D), eps, view(addend, T, D), view(with_addend, T, D));
  for (std::size_t i = 0; i < dx.size(); ++i) EXPECT_EQ(with_addend[i], addend[i] + dx[i]);

  const auto before = dw;
  ctx.kernels.rms_norm_backward_weight(ctx, view(dy, T, D), view(x, T, D), eps, view(dw, 1, D));
  for (std::size_t i = 0; i < dw.size(); ++i) dw[i] -= before[i];  // it adds to what stands there
  EXPECT_LT(gradient_error(w, dw, loss), kGradientError);
}

TEST(RmsNorm, ForwardMatchesTheTwinRowByRow) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const std::int64_t D : {5, 129, 512}) {
      const std::int64_t T = D == 5 ? 20 : 300;
      const Fenced x = random_matrix(dtype, T, D, 1, 3, /*gap=*/1), w = random_matrix(dtype, 1, D, 2);
      // x · r may be rounded the other way (one unit, 2 half_ulp), and so may the product; r has half the error of the sum.
      const Tolerance tolerance{.relative = 4 * half_ulp(dtype) + sum_error(D)};
      expect_row_wise(isa, dtype, T, D, tolerance, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat y) {
        ctx.kernels.rms_norm_forward(ctx, x.mat().row_range(first, rows), w, 1e-6, y);
      });
    }
  });
}

TEST(RmsNorm, BackwardInputMatchesTheTwinRowByRow) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const bool with_addend : {false, true}) {
      const std::int64_t T = 300, D = 129;
      const Fenced dy = random_matrix(dtype, T, D, 1), x = random_matrix(dtype, T, D, 2, 1, /*gap=*/1), w = random_matrix(dtype, 1, D, 3),
                   addend = random_matrix(dtype, T, D, 4);
      // The terms that are subtracted are at most 5³ · r, r about 1: their products and sums err by that much of sum_error.
      const Tolerance tolerance{.absolute = 125 * sum_error(D), .relative = 2 * half_ulp(dtype)};
      expect_row_wise(isa, dtype, T, D, tolerance, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat dx) {
        ctx.kernels.rms_norm_backward_input(ctx, dy.mat().row_range(first, rows), x.mat().row_range(first, rows), w, 1e-6,
                                            with_addend ? addend.mat().row_range(first, rows) : ConstMat{}, dx);
      });
    }
  });
}

TEST(RmsNorm, BackwardWeightMatchesTheTwinAndAddsToWhatStands) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const std::int64_t T : {0, 1, 129, 9000}) {  // one run of rows, several, and runs longer than the least
      const std::int64_t D = 37;
      const Fenced dy = random_matrix(dtype, T, D, 1), x = random_matrix(dtype, T, D, 2, 1, /*gap=*/1);
      Fenced want = random_matrix(DType::f32, 1, D, 3), one = want, two = want;
      Machine twin("reference", 1), machine_one(isa, 1), machine_two(isa, 2);
      twin.kernels().rms_norm_backward_weight(twin.context(), dy, x, 1e-6, want);
      machine_one.kernels().rms_norm_backward_weight(machine_one.context(), dy, x, 1e-6, one);
      machine_two.kernels().rms_norm_backward_weight(machine_two.context(), dy, x, 1e-6, two);
      // Σ|terms| ≤ T (normals); runs of 141 rows and 64 of them are added one by one. x · r may be rounded the other way in
      // one of 2^-14 elements (r errs by 2^-22, a unit is 2^-8), each by a unit of at most 5 · 5.
      const double flips = dtype == DType::bf16 ? 1 + static_cast<double>(T) * 0x1p-13 : 0;
      const Tolerance tolerance{.absolute = static_cast<double>(T) * 205 * kSingle + flips * 25 * 2 * half_ulp(dtype), .relative = kSingle};
      EXPECT_TRUE(close(one, want, tolerance)) << T;
      EXPECT_TRUE(same_bits(two, one));
      EXPECT_TRUE(one.fences_stand());
    }
  });
}

}  // namespace
}  // namespace finback::kernels::test
