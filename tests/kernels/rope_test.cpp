#include "tests/kernels/rows.h"

#include <gtest/gtest.h>

namespace finback::kernels::test {
namespace {

Fenced rope_table(DType dtype, std::int64_t positions, std::int64_t R) {
  Fenced table(dtype, positions, R);
  for (std::int64_t p = 0; p < positions; ++p)
    for (std::int64_t i = 0; i < R; i += 2) {
      const double angle = static_cast<double>(p) * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(R));
      put(table, p, i, std::cos(angle));
      put(table, p, i + 1, std::sin(angle));
    }
  return table;
}

// Two heads of [4 nope | R rope] columns: only the rope columns turn, by the angle of the row's position.
struct RopeCase {
  std::int64_t rows, R, heads, head_stride;
};
const std::vector<RopeCase> kCases = {{50, 32, 3, 40}, {700, 64, 1, 64}, {30, 6, 2, 11}, {20, 16, 2, 48}, {9, 24, 2, 28}};

TEST(Rope, MatchesTheTwinRowByRow) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const RopeCase& c : kCases)
      for (const bool inverse : {false, true}) {
        SCOPED_TRACE(fmt::format("R {}, inverse {}", c.R, inverse));
        const std::int64_t cols = (c.heads - 1) * c.head_stride + c.R;
        const Fenced x = random_matrix(dtype, c.rows, cols, 1), angles = rope_table(DType::f32, 100, c.R);
        const auto positions = random_indices(c.rows, 100, 2);
        // Two products of at most 5 and their sum.
        const Tolerance tolerance{.absolute = 3 * 5 * kSingle, .relative = 2 * half_ulp(dtype)};
        expect_row_wise(isa, dtype, c.rows, cols, tolerance, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat y) {
          for (std::int64_t t = 0; t < rows; ++t)
            for (std::int64_t d = 0; d < cols; ++d) put(y, t, d, get(x, first + t, d));
          ctx.kernels.rope(ctx, y, c.heads, c.head_stride, angles, part(positions, first, rows), inverse);
          for (std::int64_t t = 0; t < rows; ++t)
            for (std::int64_t d = 0; d < cols; ++d)
              if (d % c.head_stride >= c.R) {
                EXPECT_EQ(get(y, t, d), get(x, first + t, d));
              }
        });
      }
  });
}

// A rotation: the scalar product of two rows at positions p and q depends on p − q alone, and its inverse undoes it.
TEST(RopeReference, IsARotation) {
  Machine machine("reference", 1);
  const std::int64_t R = 16;
  const Fenced angles = rope_table(DType::f64, 100, R), kept = random_matrix(DType::f64, 2, R, 1);
  const auto product = [&](std::int32_t p, std::int32_t q) {
    Fenced x = kept;
    const std::vector<std::int32_t> positions{p, q};
    machine.kernels().rope(machine.context(), x, 1, R, angles, positions, false);
    double sum = 0;
    for (std::int64_t i = 0; i < R; ++i) sum += get(x, 0, i) * get(x, 1, i);
    machine.kernels().rope(machine.context(), x, 1, R, angles, positions, true);
    EXPECT_TRUE(close(x, kept, {.absolute = 1e-14}));
    return sum;
  };
  EXPECT_NEAR(product(3, 10), product(50, 57), 1e-12);
  EXPECT_GT(std::abs(product(3, 10) - product(3, 11)), 1e-3);
}

}  // namespace
}  // namespace finback::kernels::test
