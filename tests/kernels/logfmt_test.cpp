// LogFMT: what comes back, and the fast tables against the twin, bit for bit.
#include "tests/kernels/scaled_case.h"

namespace finback::kernels::test {
namespace {

FencedScaled encoded(const Context& ctx, ConstMat x, int bits, std::int64_t gap, std::int64_t& bad) {
  FencedScaled y(DType::u8, x.rows, log_bytes(x.cols, bits), x.rows, 2 * tiles_of(x.cols), gap);
  bad = ctx.kernels.encode_logfmt(ctx, x, bits, y);
  return y;
}
Fenced decoded(const Context& ctx, const FencedScaled& codes, int bits, DType dtype, std::int64_t cols, std::int64_t gap) {
  Fenced y(dtype, codes.codes.mat().rows, cols, gap);
  ctx.kernels.decode_logfmt(ctx, codes, bits, y);
  return y;
}

TEST(LogFmt, CodesAndElementsAreTheTwins) {
  for (const std::string_view isa : fast_tables())
    for (const int bits : {8, 10})
      for (const DType dtype : {DType::bf16, DType::f32})
        for (const Shape& s : kShapes) {
          SCOPED_TRACE(fmt::format("{} {} bits {} {} x {} gap {}", isa, bits, core::name_of(dtype), s.rows, s.cols, s.gap));
          Machine plain("reference", 1), one(isa, 1), two(isa, 2);
          const Fenced x = odd_matrix(dtype, s.rows, s.cols, s.gap);
          std::int64_t bad, bad_one, bad_two;
          const FencedScaled want = encoded(plain.context(), x, bits, s.gap, bad), got = encoded(one.context(), x, bits, s.gap, bad_one);
          EXPECT_TRUE(same_bits(got, want));
          EXPECT_TRUE(same_bits(encoded(two.context(), x, bits, s.gap, bad_two), want));
          EXPECT_EQ(bad_one, bad);
          EXPECT_EQ(bad_two, bad);
          EXPECT_TRUE(got.fences_stand());
          const Fenced y = decoded(two.context(), want, bits, dtype, s.cols, s.gap);
          EXPECT_TRUE(same_numbers(y, decoded(plain.context(), want, bits, dtype, s.cols, s.gap)));
          EXPECT_TRUE(y.fences_stand());
        }
}

// Within half a step of the grid, which a tile of normal numbers makes finer than e4m3's; an eighth of it, and more, with two bits more.
TEST(LogFmt, TenBitsComeNearerThanEightAndEightThanE4M3) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  const Fenced x = random_matrix(DType::f32, 8, 512, 1);
  std::int64_t bad;
  const auto error = [&](int bits) { return difference(decoded(ctx, encoded(ctx, x, bits, 0, bad), bits, DType::f32, 512, 0), x); };
  Fenced e4m3(DType::f32, 8, 512);
  ctx.kernels.dequantize_rows(ctx, quantized_rows(ctx, x, {}), e4m3);
  EXPECT_LT(error(8), 0.8 * difference(e4m3, x));
  EXPECT_LT(error(10), 0.27 * error(8));
}

TEST(LogFmt, ATileWithoutItsLikeIsReportedAndEntirelyNan) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  Fenced x = random_matrix(DType::f32, 1, 256, 1);
  put(x, 0, 3, INFINITY), put(x, 0, 4, 0), put(x, 0, 130, 0);
  for (const int bits : {8, 10}) {
    std::int64_t bad;
    const Fenced y = decoded(ctx, encoded(ctx, x, bits, 0, bad), bits, DType::f32, 256, 0);
    EXPECT_EQ(bad, 1);
    for (std::int64_t c = 0; c < 128; ++c) EXPECT_TRUE(c == 4 ? get(y, 0, c) == 0 : std::isnan(get(y, 0, c))) << c;
    for (std::int64_t c = 128; c < 256; ++c) EXPECT_TRUE(std::isfinite(get(y, 0, c))) << c;
    EXPECT_EQ(get(y, 0, 130), 0);
  }
}

}  // namespace
}  // namespace finback::kernels::test
