#include "tests/kernels/gradient.h"
#include "tests/kernels/rows.h"

#include <gtest/gtest.h>

namespace finback::kernels::test {
namespace {

TEST(CrossEntropyReference, BackwardMatchesCentralDifferences) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  constexpr std::int64_t T = 4, W = 9;
  auto logits = normals(T * W, 1);
  const std::vector<std::int32_t> targets{3, -1, 0, 8};
  std::vector<double> losses(T), dlogits(T * W);
  std::vector<std::int32_t> best(T);
  const double scale = 0.25;
  const auto loss = [&] {
    ctx.kernels.cross_entropy(ctx, view(logits, T, W), targets, scale, view(losses, 1, T), {}, {});
    return scale * (losses[0] + losses[1] + losses[2] + losses[3]);
  };
  ctx.kernels.cross_entropy(ctx, view(logits, T, W), targets, scale, view(losses, 1, T), core::mat(best.data(), DType::i32, 1, T),
                            view(dlogits, T, W));
  EXPECT_EQ(losses[1], 0);
  for (std::size_t w = 0; w < W; ++w) EXPECT_EQ(dlogits[W + w], 0);
  EXPECT_LT(gradient_error(logits, dlogits, loss), kGradientError);
}

TEST(CrossEntropy, MatchesTheTwinRowByRow) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const std::int64_t W : {3, 130, 8192}) {
      const std::int64_t T = 40;
      const Fenced logits = random_matrix(DType::f32, T, W, 1, 5, /*gap=*/1);
      auto targets = random_indices(T, W, 2);
      targets[1] = targets[7] = -1;
      const double scale = 3;
      // The gradient: exp errs by 2 units and its argument by |x − max| < 64 half units, the sum by sum_error; beside the
      // target 1 is subtracted.
      const Tolerance gradient{.absolute = scale * 4 * kSingle, .relative = 70 * kSingle + sum_error(W) + 2 * half_ulp(dtype)};
      expect_row_wise(isa, dtype, T, W, gradient, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat dlogits) {
        Fenced loss(DType::f32, 1, rows);
        ctx.kernels.cross_entropy(ctx, logits.mat().row_range(first, rows), part(targets, first, rows), scale, loss, {}, dlogits);
      });
      // The loss: the log turns those relative errors into absolute ones; max and target, below 32, are rounded thrice.
      const Tolerance value{.absolute = 70 * kSingle + sum_error(W) + 3 * 32 * kSingle};
      expect_row_wise(isa, DType::f32, T, 1, value, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat out) {
        Fenced loss(DType::f32, 1, rows);
        ctx.kernels.cross_entropy(ctx, logits.mat().row_range(first, rows), part(targets, first, rows), scale, loss, {}, {});
        for (std::int64_t t = 0; t < rows; ++t) put(out, t, 0, get(loss, 0, t));
      });
      expect_row_wise(isa, DType::i32, T, 1, {}, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat out) {
        Fenced loss(DType::f32, 1, rows), best(DType::i32, 1, rows);
        ctx.kernels.cross_entropy(ctx, logits.mat().row_range(first, rows), part(targets, first, rows), scale, loss, best, {});
        for (std::int64_t t = 0; t < rows; ++t) put(out, t, 0, get(best, 0, t));
      });
    }
  });
}

// Every table, the reference too: ties go to the lowest id, NaN is never the best of a row that holds a number.
TEST(CrossEntropy, TheBestOfOddRows) {
  const double inf = INFINITY, nan = NAN;
  struct Row {
    std::int64_t width;
    std::vector<std::pair<std::int64_t, double>> values;  // the rest is `other`
    double other;
    std::int64_t best;
  };
  const std::vector<Row> rows = {
      {40, {}, 0.5, 0},
      {40, {{39, 2}, {7, 2}, {23, 2}}, 0, 7},
      {40, {{0, nan}, {35, 1}}, 0, 35},
      {40, {{0, nan}, {1, nan}}, -inf, 2},
      {40, {}, -inf, 0},
      {40, {}, nan, 0},
      {40, {{33, inf}, {38, inf}}, 0, 33},
      {17, {{16, 3}, {0, 3}}, 1, 0},
      {1, {}, -4, 0},
  };
  for (const std::string_view isa : runnable())
    for (const Row& row : rows) {
      Fenced logits = constant_matrix(DType::f32, 1, row.width, row.other), loss(DType::f32, 1, 1), best(DType::i32, 1, 1);
      for (const auto& [at, value] : row.values) put(logits, 0, at, value);
      Machine machine(isa, 1);
      const std::vector<std::int32_t> targets{0};
      machine.kernels().cross_entropy(machine.context(), logits, targets, 1, loss, best, {});
      EXPECT_EQ(get(best, 0, 0), static_cast<double>(row.best)) << isa << ", the rest " << row.other;
    }
}

// A NaN or an infinity must be seen in the loss: the trainer's guard looks there.
TEST(CrossEntropy, NanAndInfinityReachTheLoss) {
  for (const std::string_view isa : runnable())
    for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
      Fenced logits = random_matrix(DType::f32, 1, 50, 1), loss(DType::f32, 1, 1), dlogits(DType::bf16, 1, 50);
      put(logits, 0, 33, bad);
      Machine machine(isa, 1);
      const std::vector<std::int32_t> targets{2};
      machine.kernels().cross_entropy(machine.context(), logits, targets, 1, loss, {}, dlogits);
      EXPECT_FALSE(std::isfinite(get(loss, 0, 0))) << isa;
    }
}

}  // namespace
}  // namespace finback::kernels::test
