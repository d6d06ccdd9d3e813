// E5M6: what comes back, and the fast tables against the twin, bit for bit.
#include "numerics/e5m6.h"
#include "tests/kernels/scaled_case.h"

namespace finback::kernels::test {
namespace {

TEST(E5M6, KeepsSixBitsUnderPowersOfTwo) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  for (const std::int64_t k : {1, 2, 7, 128, 129, 300}) {
    const Fenced x = random_matrix(DType::bf16, 3, k, 1, 0.7);
    FencedScaled codes(DType::u8, 3, 3 * ((k + 1) / 2), 3, tiles_of(k), 1);
    EXPECT_EQ(ctx.kernels.encode_e5m6(ctx, x, codes), 0);
    Fenced y(DType::bf16, 3, k, 1);
    ctx.kernels.decode_e5m6(ctx, codes, y);
    EXPECT_TRUE(close(y, x, {.relative = 0x1p-7}));
    EXPECT_TRUE(codes.fences_stand() && y.fences_stand());
    if (k % 2) {  // the second code of the last pair
      EXPECT_EQ(codes.codes.mat().row<std::uint8_t>(2)[3 * ((k + 1) / 2) - 1], 0);
    }
  }
}

FencedScaled encoded(const Context& ctx, ConstMat x, std::int64_t gap, std::int64_t& bad) {
  FencedScaled y(DType::u8, x.rows, 3 * ((x.cols + 1) / 2), x.rows, tiles_of(x.cols), gap);
  bad = ctx.kernels.encode_e5m6(ctx, x, y);
  return y;
}

TEST(E5M6, CodesAndElementsAreTheTwins) {
  for (const std::string_view isa : fast_tables())
    for (const DType dtype : {DType::bf16, DType::f32})
      for (const Shape& s : kShapes) {
        SCOPED_TRACE(fmt::format("{} {} {} x {} gap {}", isa, core::name_of(dtype), s.rows, s.cols, s.gap));
        Machine plain("reference", 1), one(isa, 1), two(isa, 2);
        const Fenced x = odd_matrix(dtype, s.rows, s.cols, s.gap);
        std::int64_t bad, bad_one, bad_two;
        const FencedScaled want = encoded(plain.context(), x, s.gap, bad), got = encoded(one.context(), x, s.gap, bad_one);
        EXPECT_TRUE(same_bits(got, want));
        EXPECT_TRUE(same_bits(encoded(two.context(), x, s.gap, bad_two), want));
        EXPECT_EQ(bad_one, bad);
        EXPECT_EQ(bad_two, bad);
        EXPECT_TRUE(got.fences_stand());
        Fenced y(dtype, s.rows, s.cols, s.gap), want_y = y;
        two.kernels().decode_e5m6(two.context(), want, y);
        plain.kernels().decode_e5m6(plain.context(), want, want_y);
        EXPECT_TRUE(same_numbers(y, want_y));
        EXPECT_TRUE(y.fences_stand());
      }
}

TEST(E5M6, WhatIsNotFiniteIsReportedAndStaysWhereItIs) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  Fenced x = constant_matrix(DType::f32, 2, 200, 1.5);
  put(x, 0, 7, INFINITY), put(x, 1, 199, NAN);
  std::int64_t bad;
  const FencedScaled codes = encoded(ctx, x, 0, bad);
  EXPECT_EQ(bad, 2);
  Fenced y(DType::f32, 2, 200);
  ctx.kernels.decode_e5m6(ctx, codes, y);
  for (std::int64_t r = 0; r < 2; ++r)
    for (std::int64_t c = 0; c < 200; ++c) {
      const bool odd = (r == 0 && c == 7) || (r == 1 && c == 199);
      EXPECT_TRUE(odd ? std::isnan(get(y, r, c)) : get(y, r, c) == 1.5) << r << ", " << c;
    }
}

}  // namespace
}  // namespace finback::kernels::test
