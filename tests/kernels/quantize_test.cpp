// Tiles and codes: the twin against the definition.
#include "tests/kernels/scaled_case.h"

namespace finback::kernels::test {
namespace {

constexpr Quantization kAll[] = {{DType::e4m3, false}, {DType::e4m3, true}, {DType::e5m2, false}, {DType::e5m2, true}};

TEST(Quantize, ATileByHand) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  Fenced x(DType::f32, 1, 130);
  for (std::int64_t c = 0; c < 130; ++c) put(x, 0, c, 0);
  put(x, 0, 0, -896), put(x, 0, 1, 4.5), put(x, 0, 2, 0x1p-9), put(x, 0, 3, -0.0);  // the first tile: scale 2
  put(x, 0, 128, 3), put(x, 0, 129, 1);                                             // the second: amax 3
  for (const bool power_of_two : {false, true}) {
    const FencedScaled y = quantized_rows(ctx, x, {DType::e4m3, power_of_two});
    const auto code = [&](std::int64_t c) { return y.codes.mat().row<std::uint8_t>(0)[c]; };
    EXPECT_EQ(get(y.scales, 0, 0), 2);
    EXPECT_EQ(code(0), 0xfe);  // -448
    EXPECT_EQ(code(1), 0x41);  // 2.25
    EXPECT_EQ(code(2), 0x00);  // a tie between 0 and 2^-9
    EXPECT_EQ(code(3), 0x80);
    EXPECT_EQ(get(y.scales, 0, 1), power_of_two ? 0x1p-7 : static_cast<double>(3.0f / 448.0f));
    EXPECT_EQ(get(y.codes, 0, 128), power_of_two ? 384 : 448);
    EXPECT_EQ(get(y.codes, 0, 129), power_of_two ? 128 : 144);  // 149.3
  }
}

TEST(Quantize, ElementsComeBackWithinHalfAStepOfTheirFormat) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  for (const Quantization& q : kAll) {
    const Fenced x = random_matrix(DType::bf16, 5, 300, 1, 0.03);
    const FencedScaled codes = quantized_rows(ctx, x, q);
    Fenced y(DType::f32, 5, 300, 1);
    ctx.kernels.dequantize_rows(ctx, codes, y);
    EXPECT_TRUE(y.fences_stand());
    const bool e4m3 = q.format == DType::e4m3;
    for (std::int64_t r = 0; r < 5; ++r)
      for (std::int64_t c = 0; c < 300; ++c) {
        const double scale = get(codes.scales, r, c / kTile), want = get(x, r, c);
        EXPECT_LE(std::abs(get(y, r, c) - want),
                  std::max(std::abs(want) * (e4m3 ? 0x1p-4 : 0x1p-3), scale * (e4m3 ? 0x1p-10 : 0x1p-17)) * 1.00001);
      }
  }
}

TEST(Quantize, ColumnsAreTheRowsOfTheTransposedGroups) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  const std::vector<std::int64_t> offsets = {0, 0, 130, 131, 300};
  const Fenced x = random_matrix(DType::bf16, 300, 9, 1);
  for (const Quantization& q : kAll) {
    const FencedScaled y = quantized_columns(ctx, {x, {}}, offsets, q);
    EXPECT_EQ(y.scales.mat().rows, 0 + 2 + 1 + 2);
    std::int64_t tile = 0;
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
      const std::int64_t rows = offsets[g + 1] - offsets[g];
      Fenced turned(DType::bf16, 9, rows);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < 9; ++c) put(turned, c, r, get(x, offsets[g] + r, c));
      const FencedScaled want = quantized_rows(ctx, turned, q);
      for (std::int64_t c = 0; c < 9; ++c) {
        for (std::int64_t r = 0; r < rows; ++r) EXPECT_EQ(get(y.codes, offsets[g] + r, c), get(want.codes, c, r));
        for (std::int64_t t = 0; t < tiles_of(rows); ++t) EXPECT_EQ(get(y.scales, tile + t, c), get(want.scales, c, t));
      }
      tile += tiles_of(rows);
    }
  }
}

TEST(Quantize, RetilingCodesTheElementsAnew) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  const std::vector<std::int64_t> offsets = {0, 150, 200};
  const FencedScaled rows = quantized_rows(ctx, random_matrix(DType::bf16, 200, 140, 1), {});
  Fenced elements(DType::f32, 200, 140);
  ctx.kernels.dequantize_rows(ctx, rows, elements);
  for (const Quantization& q : kAll)
    EXPECT_TRUE(same_bits(quantized_columns(ctx, rows, offsets, q), quantized_columns(ctx, {elements, {}}, offsets, q)));
}

TEST(Quantize, BlocksRestartAtEveryTensorOfASlab) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  const std::vector<std::int64_t> parts = {70, 130};
  Fenced w = random_matrix(DType::f32, 2 * 200, 150, 1, 0.02);
  put(w, 200 + 69, 149, 7);   // the last row of the first tensor of the second group
  put(w, 200 + 199, 0, -10);  // the last row of all
  const FencedScaled y = quantized_blocks(ctx, w, 2, parts, {});
  ASSERT_EQ(y.scales.mat().rows, 2 * 3);
  ASSERT_EQ(y.scales.mat().cols, 2);
  EXPECT_EQ(get(y.scales, 3, 1), static_cast<double>(7.0f / 448));
  EXPECT_EQ(get(y.scales, 5, 0), static_cast<double>(10.0f / 448));
  EXPECT_LT(get(y.scales, 4, 1), 0.2 / 448);
  const WeightView view{y.codes.mat().data, DType::e4m3, 2, 200, 150, y.scales, parts};
  Fenced back(DType::f32, 400, 150);
  ctx.kernels.dequantize_blocks(ctx, view, back);
  for (std::int64_t r = 0; r < 400; ++r)
    for (std::int64_t c = 0; c < 150; ++c) {
      const std::int64_t tile = r / 200 * 3 + (r % 200 < 70 ? 0 : r % 200 < 198 ? 1 : 2);
      EXPECT_EQ(get(back, r, c), static_cast<float>(get(y.codes, r, c) * get(y.scales, tile, c / kTile)));
      EXPECT_LE(std::abs(get(back, r, c) - get(w, r, c)),
                std::abs(get(w, r, c)) * 0x1p-4 * 1.00001 + get(y.scales, tile, c / kTile) * 0x1p-10);
    }
}

// NaN and infinity are counted, coded as NaN of their sign, and leave their neighbours as they are.
TEST(Quantize, WhatIsNotFiniteIsReportedAndStaysWhereItIs) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  const Fenced clean = random_matrix(DType::f32, 3, 400, 1);
  Fenced x = clean;
  put(x, 0, 5, NAN), put(x, 0, 6, -INFINITY), put(x, 2, 399, INFINITY);
  for (const Quantization& q : kAll) {
    std::int64_t bad = 0;
    const FencedScaled y = quantized_rows(ctx, x, q, &bad), want = quantized_rows(ctx, clean, q);
    EXPECT_EQ(bad, 2);
    EXPECT_TRUE(std::isnan(get(y.codes, 0, 5)) && std::isnan(get(y.codes, 2, 399)));
    EXPECT_EQ(y.codes.mat().row<std::uint8_t>(0)[6], 0xff);
    EXPECT_EQ(y.codes.mat().row<std::uint8_t>(2)[399], 0x7f);
    for (std::int64_t c = 128; c < 384; ++c) EXPECT_EQ(get(y.codes, 1, c), get(want.codes, 1, c));
    for (std::int64_t t = 0; t < 4; ++t) EXPECT_TRUE(std::isfinite(get(y.scales, 0, t)));
    quantized_columns(ctx, {x, {}}, std::vector<std::int64_t>{0, 1, 3}, q, &bad);
    EXPECT_EQ(bad, 3);
    quantized_blocks(ctx, x, 1, {}, q, &bad);
    EXPECT_EQ(bad, 2);
  }
}

// ---- the fast tables against the twin, bit for bit: numbers, and how many tiles held none

template <class Body>
void for_each_table_and_type(Body body) {
  for (const std::string_view isa : fast_tables())
    for (const DType dtype : {DType::bf16, DType::f32})
      for (const Quantization& q : kAll) {
        SCOPED_TRACE(
            fmt::format("{} {} to {}{}", isa, core::name_of(dtype), core::name_of(q.format), q.power_of_two ? ", powers of two" : ""));
        Machine plain("reference", 1), one(isa, 1), two(isa, 2);
        body(plain.context(), one.context(), two.context(), dtype, q);
      }
}

TEST(Quantize, RowsAreTheTwinsBits) {
  for_each_table_and_type([](const Context& plain, const Context& one, const Context& two, DType dtype, const Quantization& q) {
    for (const Shape& s : kShapes) {
      SCOPED_TRACE(fmt::format("{} x {} gap {}", s.rows, s.cols, s.gap));
      const Fenced x = odd_matrix(dtype, s.rows, s.cols, s.gap);
      std::int64_t bad, bad_one, bad_two;
      const FencedScaled want = quantized_rows(plain, x, q, &bad, s.gap), got = quantized_rows(one, x, q, &bad_one, s.gap),
                         got_two = quantized_rows(two, x, q, &bad_two, s.gap);
      EXPECT_TRUE(same_bits(got, want));
      EXPECT_TRUE(same_bits(got_two, want));
      EXPECT_EQ(bad_one, bad);
      EXPECT_EQ(bad_two, bad);
      EXPECT_TRUE(got.fences_stand());
    }
  });
}

TEST(Quantize, ColumnsAreTheTwinsBits) {
  const std::vector<std::vector<std::int64_t>> groups = {{0, 1}, {3, 0, 9}, {128, 129, 0, 43}};
  for_each_table_and_type([&](const Context& plain, const Context& one, const Context& two, DType dtype, const Quantization& q) {
    for (const auto& rows : groups)
      for (const std::int64_t cols : {1, 63, 64, 70, 256, 400}) {
        SCOPED_TRACE(fmt::format("rows {} cols {}", fmt::join(rows, ","), cols));
        const std::vector<std::int64_t> offsets = offsets_of(rows);
        const std::int64_t gap = cols % 3;
        const Fenced x = odd_matrix(dtype, offsets.back(), cols, gap);
        std::int64_t bad, bad_one, bad_two;
        const FencedScaled want = quantized_columns(plain, {x, {}}, offsets, q, &bad, gap),
                           got = quantized_columns(one, {x, {}}, offsets, q, &bad_one, gap),
                           got_two = quantized_columns(two, {x, {}}, offsets, q, &bad_two, gap);
        EXPECT_TRUE(same_bits(got, want));
        EXPECT_TRUE(same_bits(got_two, want));
        EXPECT_EQ(bad_one, bad);
        EXPECT_EQ(bad_two, bad);
        EXPECT_TRUE(got.fences_stand());
        const FencedScaled tiled = quantized_rows(plain, x, {.format = dtype == DType::f32 ? DType::e4m3 : DType::e5m2});
        const FencedScaled again = quantized_columns(plain, tiled, offsets, q, &bad),
                           got_again = quantized_columns(two, tiled, offsets, q, &bad_two);
        EXPECT_TRUE(same_bits(got_again, again));
        EXPECT_EQ(bad_two, bad);
      }
  });
}

TEST(Quantize, BlocksAreTheTwinsBits) {
  struct Blocks {
    std::int64_t groups, rows, cols;
    std::vector<std::int64_t> parts;
  };
  const Blocks cases[] = {{1, 1, 1, {}}, {2, 130, 700, {}}, {1, 200, 129, {70, 130}}, {3, 12, 1540, {5, 0, 7}}};
  for_each_table_and_type([&](const Context& plain, const Context& one, const Context& two, DType dtype, const Quantization& q) {
    for (const Blocks& b : cases) {
      SCOPED_TRACE(fmt::format("{} groups of {} x {}", b.groups, b.rows, b.cols));
      const Fenced w = odd_matrix(dtype, b.groups * b.rows, b.cols, 0);
      std::int64_t bad, bad_one, bad_two;
      const FencedScaled want = quantized_blocks(plain, w, b.groups, b.parts, q, &bad),
                         got = quantized_blocks(one, w, b.groups, b.parts, q, &bad_one),
                         got_two = quantized_blocks(two, w, b.groups, b.parts, q, &bad_two);
      EXPECT_TRUE(same_bits(got, want));
      EXPECT_TRUE(same_bits(got_two, want));
      EXPECT_EQ(bad_one, bad);
      EXPECT_EQ(bad_two, bad);
      EXPECT_TRUE(got.fences_stand());
    }
  });
}

// Every code, and NaN, under odd scales.
TEST(Quantize, ElementsAreTheTwins) {
  for (const std::string_view isa : fast_tables())
    for (const DType format : {DType::e4m3, DType::e5m2})
      for (const DType dtype : {DType::bf16, DType::f32}) {
        SCOPED_TRACE(fmt::format("{} {} to {}", isa, core::name_of(format), core::name_of(dtype)));
        Machine plain("reference", 1), fast(isa, 2);
        for (const std::int64_t cols : {300, 512, 1}) {
          FencedScaled codes(format, 140, cols, 140, tiles_of(cols), 1);
          for (std::int64_t r = 0; r < 140; ++r) {
            for (std::int64_t c = 0; c < cols; ++c) codes.codes.mat().row<std::uint8_t>(r)[c] = static_cast<std::uint8_t>(r + c);
            for (std::int64_t t = 0; t < tiles_of(cols); ++t) put(codes.scales, r, t, std::ldexp(1.1, static_cast<int>(r) - 100));
          }
          Fenced got(dtype, 140, cols, 2), want = got;
          fast.kernels().dequantize_rows(fast.context(), codes, got);
          plain.kernels().dequantize_rows(plain.context(), codes, want);
          EXPECT_TRUE(same_numbers(got, want));
          EXPECT_TRUE(got.fences_stand());
          const std::vector<std::int64_t> parts = {20, 50};
          FencedScaled blocks(format, 140, cols, 4, tiles_of(cols), 0);
          for (std::int64_t r = 0; r < 140; ++r)
            for (std::int64_t c = 0; c < cols; ++c) blocks.codes.mat().row<std::uint8_t>(r)[c] = static_cast<std::uint8_t>(r + c);
          for (std::int64_t r = 0; r < 4; ++r)
            for (std::int64_t t = 0; t < tiles_of(cols); ++t) put(blocks.scales, r, t, static_cast<double>(r + 1) * 0.3);
          const WeightView view{blocks.codes.mat().data, format, 2, 70, cols, blocks.scales, parts};
          Fenced got_blocks(dtype, 140, cols, 2), want_blocks = got_blocks;
          fast.kernels().dequantize_blocks(fast.context(), view, got_blocks);
          plain.kernels().dequantize_blocks(plain.context(), view, want_blocks);
          EXPECT_TRUE(same_numbers(got_blocks, want_blocks));
          EXPECT_TRUE(got_blocks.fences_stand());
        }
      }
}

}  // namespace
}  // namespace finback::kernels::test
