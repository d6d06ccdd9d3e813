// Products of codes with scales: the twin against the plain twin on the elements that the codes stand for.
#include "tests/kernels/scaled_case.h"

namespace finback::kernels::test {
namespace {

constexpr Quantization kNearest = {};  // e4m3, FP32 scales

// A grouped product's operands as codes, and as the elements that these stand for.
struct Operands {
  Operands(const Context& ctx, const std::vector<std::int64_t>& rows, std::int64_t n, std::int64_t k, std::vector<std::int64_t> parts_of_w,
           DType gradients = DType::e4m3)
      : offsets(offsets_of(rows)),
        parts(std::move(parts_of_w)),
        groups(static_cast<std::int64_t>(rows.size())),
        slots(offsets.back()),
        plain_x(random_matrix(DType::bf16, slots, k, 1)),
        plain_dy(random_matrix(DType::bf16, slots, n, 2, 1e-3)),
        plain_w(random_matrix(DType::f32, groups * n, k, 3, 0.02)),
        x(quantized_rows(ctx, plain_x, kNearest)),
        dy(quantized_rows(ctx, plain_dy, {.format = gradients})),
        x_columns(quantized_columns(ctx, {plain_x, {}}, offsets, kNearest)),
        dy_columns(quantized_columns(ctx, {plain_dy, {}}, offsets, {.format = gradients})),
        w_codes(quantized_blocks(ctx, plain_w, groups, parts, kNearest)),
        w{w_codes.codes.mat().data, DType::e4m3, groups, n, k, w_codes.scales, parts},
        exact_w(DType::f64, groups * n, k) {
    for (std::int64_t r = 0; r < groups * n; ++r)
      for (std::int64_t c = 0; c < k; ++c)
        put(exact_w, r, c,
            get(w_codes.codes, r, c) * get(w_codes.scales, r / n * row_tiles(n, parts) + row_tile_of(r % n, parts), c / kTile));
  }
  WeightView exact() const { return {exact_w.mat().data, DType::f64, groups, w.rows, w.cols}; }
  Fenced exact_rows(const FencedScaled& m) const {
    Fenced y(DType::f64, m.codes.mat().rows, m.codes.mat().cols);
    for (std::int64_t r = 0; r < y.mat().rows; ++r)
      for (std::int64_t c = 0; c < y.mat().cols; ++c) put(y, r, c, get(m.codes, r, c) * get(m.scales, r, c / kTile));
    return y;
  }
  Fenced exact_columns(const FencedScaled& m) const {
    Fenced y(DType::f64, m.codes.mat().rows, m.codes.mat().cols);
    std::int64_t tile = 0;
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
      for (std::int64_t r = offsets[g]; r < offsets[g + 1]; ++r)
        for (std::int64_t c = 0; c < y.mat().cols; ++c)
          put(y, r, c, get(m.codes, r, c) * get(m.scales, tile + (r - offsets[g]) / kTile, c));
      tile += tiles_of(offsets[g + 1] - offsets[g]);
    }
    return y;
  }

  std::vector<std::int64_t> offsets, parts;
  std::int64_t groups, slots;
  Fenced plain_x, plain_dy, plain_w;
  FencedScaled x, dy, x_columns, dy_columns, w_codes;
  WeightView w;
  Fenced exact_w;
};

// The scales enter a run at a time instead of an element at a time: a few roundings in double.
constexpr Tolerance kDouble = {.absolute = 1e-13, .relative = 1e-11};

TEST(ScaledLinear, TheTwinIsTheProductOfTheElements) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  struct Shape {
    std::vector<std::int64_t> rows;
    std::int64_t n, k;
    std::vector<std::int64_t> parts;
  };
  const Shape shapes[] = {{{3, 0, 140}, 40, 300, {}},
                          {{2, 5}, 200, 130, {70, 130}},  // blocks of w that restart within a tile of dy
                          {{129}, 260, 128, {130, 130}},
                          {{1}, 1, 1, {}}};
  for (const Shape& s : shapes)
    for (const DType gradients : {DType::e4m3, DType::e5m2}) {
      const Operands o(ctx, s.rows, s.n, s.k, s.parts, gradients);
      SCOPED_TRACE(fmt::format("rows {} n {} k {} {}", fmt::join(s.rows, ","), s.n, s.k, core::name_of(gradients)));
      Fenced y = constant_matrix(DType::f64, o.slots, s.n, 1), want = y;
      ctx.kernels.scaled_forward(ctx, o.x, o.w, o.offsets, y, {}, y);
      ctx.kernels.linear_forward(ctx, o.exact_rows(o.x), o.exact(), o.offsets, want, want);
      EXPECT_TRUE(close(y, want, kDouble));

      Fenced dx(DType::f64, o.slots, s.k), want_dx = dx;
      ctx.kernels.scaled_backward_input(ctx, o.dy, o.w, o.offsets, {}, {}, dx);
      ctx.kernels.linear_backward_input(ctx, o.exact_rows(o.dy), o.exact(), o.offsets, {}, want_dx);
      EXPECT_TRUE(close(dx, want_dx, kDouble));

      Fenced dw = constant_matrix(DType::f64, o.groups * s.n, s.k, 2), want_dw = dw;
      ctx.kernels.scaled_backward_weight(ctx, o.dy_columns, o.x_columns, o.offsets, {}, dw);
      ctx.kernels.linear_backward_weight(ctx, o.exact_columns(o.dy_columns), o.exact_columns(o.x_columns), o.offsets, want_dw);
      EXPECT_TRUE(close(dw, want_dw, kDouble));
      EXPECT_TRUE(y.fences_stand() && dx.fences_stand() && dw.fences_stand());
    }
}

// A tensor core's sums: by how much they miss depends on the bits, and promotion helps where the sum is long [V3 §3.3.2].
TEST(ScaledLinear, TheNarrowSumMissesByItsBitsAndPromotionMendsMostOfIt) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  const std::int64_t rows = 4, n = 8, k = 4096;
  Operands o(ctx, {rows}, n, k, {});
  for (std::int64_t r = 0; r < rows; ++r)  // of one sign, as after an activation: here the narrow sum loses most
    for (std::int64_t c = 0; c < k; ++c) put(o.plain_x, r, c, std::abs(get(o.plain_x, r, c)));
  for (std::int64_t r = 0; r < n; ++r)
    for (std::int64_t c = 0; c < k; ++c) put(o.plain_w, r, c, std::abs(get(o.plain_w, r, c)));
  const FencedScaled x = quantized_rows(ctx, o.plain_x, kNearest), w = quantized_blocks(ctx, o.plain_w, 1, {}, kNearest);
  const WeightView view{w.codes.mat().data, DType::e4m3, 1, n, k, w.scales, {}};
  const auto product = [&](const Accumulation& how) {
    Fenced y(DType::f64, rows, n);
    ctx.kernels.scaled_forward(ctx, x, view, o.offsets, {}, how, y);
    return y;
  };
  const Fenced exact = product({});
  const double wide = difference(product({.bits = 24, .promote = true}), exact);
  const double promoted = difference(product({.bits = 14, .promote = true}), exact);
  const double to_the_end = difference(product({.bits = 14, .promote = false}), exact);
  EXPECT_LT(wide, 1e-5);
  // An instruction loses at most 33 units of 2^-13 of a sum that grows over 4 instructions; to the end, over 128.
  EXPECT_GT(promoted, 2 * wide);
  EXPECT_LT(promoted, 33 * 0x1p-13);
  EXPECT_GT(to_the_end, 4 * promoted);
}

TEST(ScaledLinear, PromotionHappensAtEveryTileEvenBetweenEqualScales) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  // 128 ones make 2^7, of which 14 bits leave 2^-6; a later tile of 2^-7s survives only when it starts a new sum.
  const std::int64_t k = 2 * kTile;
  FencedScaled x(DType::e4m3, 1, k, 1, 2), w(DType::e4m3, 1, k, 1, 2);
  for (std::int64_t c = 0; c < k; ++c) put(x.codes, 0, c, c < kTile ? 1 : 0x1p-7), put(w.codes, 0, c, 1);
  for (std::int64_t t = 0; t < 2; ++t) put(x.scales, 0, t, 1), put(w.scales, 0, t, 1);
  const WeightView view{w.codes.mat().data, DType::e4m3, 1, 1, k, w.scales, {}};
  const std::vector<std::int64_t> offsets = {0, 1};
  Fenced y(DType::f32, 1, 1);
  ctx.kernels.scaled_forward(ctx, x, view, offsets, {}, {.bits = 14, .promote = true}, y);
  EXPECT_EQ(get(y, 0, 0), 129);
  ctx.kernels.scaled_forward(ctx, x, view, offsets, {}, {.bits = 14, .promote = false}, y);
  EXPECT_EQ(get(y, 0, 0), 128);
}

}  // namespace
}  // namespace finback::kernels::test
