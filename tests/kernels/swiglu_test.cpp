#include "tests/kernels/gradient.h"
#include "tests/kernels/rows.h"

#include <gtest/gtest.h>

namespace finback::kernels::test {
namespace {

TEST(SwigluReference, BackwardMatchesCentralDifferences) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  constexpr std::int64_t S = 4, F = 5;
  auto gu = normals(S * 2 * F, 1), weight = normals(S, 2), da = normals(S * F, 3);
  for (const bool weighted : {false, true}) {
    std::vector<double> a(S * F), dgu(S * 2 * F), dweight(S);
    const ConstMat w = weighted ? ConstMat(view(weight, 1, S)) : ConstMat{};
    const auto loss = [&] {
      ctx.kernels.swiglu_forward(ctx, view(gu, S, 2 * F), w, view(a, S, F));
      return dot(a, da);
    };
    ctx.kernels.swiglu_backward(ctx, view(da, S, F), view(gu, S, 2 * F), w, view(dgu, S, 2 * F), weighted ? view(dweight, 1, S) : Mat{});
    EXPECT_LT(gradient_error(gu, dgu, loss), kGradientError);
    if (weighted) {
      EXPECT_LT(gradient_error(weight, dweight, loss), kGradientError);
    }
  }
}

TEST(Swiglu, ForwardMatchesTheTwinRowByRow) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const bool weighted : {false, true}) {
      const std::int64_t S = 300, F = 129;
      const Fenced gu = random_matrix(dtype, S, 2 * F, 1, 4, /*gap=*/2), weight = random_matrix(DType::f32, 1, S, 2);
      // exp within 2 units (4 half units), then six operations in f32; both results are rounded to storage.
      const Tolerance tolerance{.absolute = 1e-30, .relative = 10 * kSingle + 2 * half_ulp(dtype)};
      expect_row_wise(isa, dtype, S, F, tolerance, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat a) {
        ctx.kernels.swiglu_forward(ctx, gu.mat().row_range(first, rows), weighted ? weight.mat().columns(first, rows) : ConstMat{}, a);
      });
    }
  });
}

TEST(Swiglu, BackwardMatchesTheTwinRowByRow) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const bool weighted : {false, true}) {
      const std::int64_t S = 300, F = 129;
      const Fenced gu = random_matrix(dtype, S, 2 * F, 1, 2, /*gap=*/2), weight = random_matrix(DType::f32, 1, S, 2),
                   da = random_matrix(dtype, S, F, 3);
      // 1 + g (1 − σ) cancels near its zero, and 1 − σ for large g: an error of some units of 1 + |g| < 12, times
      // |da · weight · up| < 4 · 4 · 8.
      const Tolerance tolerance{.absolute = 12 * 128 * 10 * kSingle, .relative = 2 * half_ulp(dtype)};
      expect_row_wise(isa, dtype, S, 2 * F, tolerance, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat dgu) {
        ctx.kernels.swiglu_backward(ctx, da.mat().row_range(first, rows), gu.mat().row_range(first, rows),
                                    weighted ? weight.mat().columns(first, rows) : ConstMat{}, dgu, {});
      });
    }
    // The weight's gradient: a sum of F terms of at most 4 · 8 · 8 each, mostly below 4.
    const Fenced gu = random_matrix(dtype, 300, 258, 1, 2), weight = random_matrix(DType::f32, 1, 300, 2),
                 da = random_matrix(dtype, 300, 129, 3);
    expect_row_wise(isa, DType::f32, 300, 1, {.absolute = 129 * 4 * sum_error(129)},
                    [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat dweight) {
                      Fenced dgu(dtype, rows, 258), flat(DType::f32, 1, rows);
                      ctx.kernels.swiglu_backward(ctx, da.mat().row_range(first, rows), gu.mat().row_range(first, rows),
                                                  weight.mat().columns(first, rows), dgu, flat);
                      for (std::int64_t s = 0; s < rows; ++s) put(dweight, s, 0, get(flat, 0, s));
                    });
  });
}

}  // namespace
}  // namespace finback::kernels::test
