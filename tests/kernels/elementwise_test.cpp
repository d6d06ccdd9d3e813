#include "tests/kernels/rows.h"

#include <gtest/gtest.h>

namespace finback::kernels::test {
namespace {

TEST(Elementwise, AddMatchesTheTwinRowByRow) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const std::int64_t gap : {0, 5}) {  // without gaps all rows are taken as one
      const Fenced a = random_matrix(dtype, 300, 129, 1, 1, gap), b = random_matrix(dtype, 300, 129, 2, 1, gap);
      // One rounding each, and bf16's passes through f32.
      expect_row_wise(isa, dtype, 300, 129, {.relative = 2 * half_ulp(dtype)},
                      [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat y) {
                        ctx.kernels.add(ctx, a.mat().row_range(first, rows), b.mat().row_range(first, rows), y);
                      });
    }
  });
}

TEST(Elementwise, ConvertIsTheTwinBitForBit) {
  for (const std::string_view isa : fast_tables())
    for (const DType from : {DType::bf16, DType::f32, DType::f64})
      for (const DType to : {DType::bf16, DType::f32, DType::f64}) {
        SCOPED_TRACE(fmt::format("{} {} to {}", isa, core::name_of(from), core::name_of(to)));
        Fenced x = random_matrix(from, 300, 129, 1, 100);
        const double odd[] = {0.0,      -0.0,         INFINITY,     -INFINITY, 0x1p-126, 0x1.fp127, 0x1.01p0 /* a tie, to even */,
                              0x1.03p0, 0x1.010002p0, 0x1.00fffep0, 0x1.ffp127 /* rounds to infinity */};
        for (std::size_t i = 0; i < std::size(odd); ++i) put(x, 0, static_cast<std::int64_t>(i), odd[i]);
        expect_row_wise(isa, to, 300, 129, {}, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat y) {
          ctx.kernels.convert(ctx, x.mat().row_range(first, rows), y);
        });
      }
}

TEST(Elementwise, ConvertKeepsNan) {
  for (const std::string_view isa : runnable()) {
    Machine machine(isa, 1);
    Fenced y(DType::bf16, 1, 20);
    machine.kernels().convert(machine.context(), constant_matrix(DType::f32, 1, 20, NAN), y);
    for (std::int64_t i = 0; i < 20; ++i) EXPECT_TRUE(std::isnan(get(y, 0, i))) << isa;
  }
}

}  // namespace
}  // namespace finback::kernels::test
