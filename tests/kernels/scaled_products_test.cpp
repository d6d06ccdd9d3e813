// The fast products of codes with scales against their twins, and the bits that kernels.h promises; packed weights of every type.
#include "tests/kernels/scaled_case.h"

#include <algorithm>

namespace finback::kernels::test {
namespace {

enum class Pass { forward, backward_input, backward_weight };

// Operands as they come: any codes but NaN, any positive scales.
struct Case {
  std::vector<std::int64_t> rows;  // of each group
  std::int64_t n, k;
  std::vector<std::int64_t> parts = {};
  DType gradients = DType::e4m3, output = DType::f32;
  std::int64_t gap = 0;
  bool addend = false;
};

struct Operands {
  explicit Operands(const Case& c)
      : offsets(offsets_of(c.rows)),
        groups(static_cast<std::int64_t>(c.rows.size())),
        slots(offsets.back()),
        x(codes(DType::e4m3, slots, c.k, slots, tiles_of(c.k), 1, c.gap)),
        dy(codes(c.gradients, slots, c.n, slots, tiles_of(c.n), 2, c.gap)),
        x_columns(codes(DType::e4m3, slots, c.k, row_tiles(offsets), c.k, 3, c.gap)),
        dy_columns(codes(c.gradients, slots, c.n, row_tiles(offsets), c.n, 4, c.gap)),
        w(codes(DType::e4m3, groups * c.n, c.k, groups * row_tiles(c.n, c.parts), tiles_of(c.k), 5, 0)),
        view{w.codes.mat().data, DType::e4m3, groups, c.n, c.k, w.scales, c.parts} {}

  static FencedScaled codes(DType format, std::int64_t rows, std::int64_t cols, std::int64_t scale_rows, std::int64_t scale_cols,
                            std::uint32_t substream, std::int64_t gap) {
    FencedScaled m(format, rows, cols, scale_rows, scale_cols, gap);
    const core::Rng rng(/*seed=*/5, core::Stream::test, substream);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c) put(m.codes, r, c, rng.normal(static_cast<std::uint64_t>(r * cols + c)));
    for (std::int64_t r = 0; r < scale_rows; ++r)
      for (std::int64_t c = 0; c < scale_cols; ++c)
        put(m.scales, r, c, 0.5 + std::abs(rng.normal(static_cast<std::uint64_t>(1'000'000 + r * scale_cols + c))));
    return m;
  }

  std::vector<std::int64_t> offsets;
  std::int64_t groups, slots;
  FencedScaled x, dy, x_columns, dy_columns, w;
  WeightView view;
};

Fenced result(const Context& ctx, Pass pass, const Case& c, const Operands& o) {
  const bool weight = pass == Pass::backward_weight;
  Fenced out =
      random_matrix(weight ? DType::f32 : c.output, weight ? o.groups * c.n : o.slots, pass == Pass::forward ? c.n : c.k, 6, 1, c.gap);
  const ConstMat addend = c.addend ? ConstMat(out.mat()) : ConstMat{};
  if (pass == Pass::forward) ctx.kernels.scaled_forward(ctx, o.x, o.view, o.offsets, addend, {}, out);
  if (pass == Pass::backward_input) ctx.kernels.scaled_backward_input(ctx, o.dy, o.view, o.offsets, addend, {}, out);
  if (weight) ctx.kernels.scaled_backward_weight(ctx, o.dy_columns, o.x_columns, o.offsets, {}, out);
  return out;
}

// As for plain products (linear_test.cpp), four times K · 2^-24 for terms of about 1, whose scales multiply to about 1.7 and seldom to
// more than 16, which scale the error too.
Tolerance tolerance(Pass pass, const Case& c) {
  const std::int64_t terms = pass == Pass::forward          ? c.k
                             : pass == Pass::backward_input ? c.n
                                                            : *std::max_element(c.rows.begin(), c.rows.end());
  return {.absolute = 16 * 4.0 * static_cast<double>(terms) * 0x1p-24 + 0x1p-22,
          .relative = 2 * half_ulp(pass == Pass::backward_weight ? DType::f32 : c.output)};
}

// On every table; the twin is slow and works once.
void expect_like_the_twin(const Case& c) {
  const Operands o(c);
  Machine plain("reference", 2);
  for (const Pass pass : {Pass::forward, Pass::backward_input, Pass::backward_weight}) {
    const Fenced want = result(plain.context(), pass, c, o);
    for (const std::string_view isa : fast_tables()) {
      SCOPED_TRACE(fmt::format("{} pass {} rows {} n {} k {} parts {} {}", isa, static_cast<int>(pass), fmt::join(c.rows, ","), c.n, c.k,
                               fmt::join(c.parts, ","), core::name_of(c.gradients)));
      Machine machine(isa, 2);
      const Fenced got = result(machine.context(), pass, c, o);
      EXPECT_TRUE(close(got, want, tolerance(pass, c)));
      EXPECT_TRUE(got.fences_stand());
    }
  }
}

TEST(ScaledProducts, OddSizesAgreeWithTheTwin) {
  const std::int64_t sizes[] = {1, 3, 16, 65, 127, 128, 129, 200};
  std::size_t turn = 0;
  for (const std::int64_t n : sizes)
    for (const std::int64_t k : sizes) {
      if (++turn % 3 != 0 && n * k > 4000) continue;  // a third of the large ones
      Case c{.rows = {sizes[5 * turn % std::size(sizes)]},
             .n = n,
             .k = k,
             .gap = static_cast<std::int64_t>(turn % 4),
             .addend = turn % 2 == 1};
      c.gradients = turn % 4 < 2 ? DType::e4m3 : DType::e5m2;
      c.output = turn % 5 < 2 ? DType::bf16 : DType::f32;
      expect_like_the_twin(c);
    }
}

// Groups, several slices along k, and blocks of w that restart within a tile of dy.
TEST(ScaledProducts, GroupsAndPartsAgreeWithTheTwin) {
  expect_like_the_twin({.rows = {0, 5, 0, 70, 1, 300, 0}, .n = 72, .k = 50, .gap = 1, .addend = true});
  expect_like_the_twin({.rows = {3, 40}, .n = 40, .k = 1301});
  expect_like_the_twin({.rows = {33}, .n = 1301, .k = 40});
  expect_like_the_twin({.rows = {9, 4}, .n = 233, .k = 140, .parts = {33, 200}, .gradients = DType::e5m2});
  expect_like_the_twin({.rows = {100}, .n = 402, .k = 96, .parts = {1, 130, 271}});
  expect_like_the_twin({.rows = {3, 300, 1, 2, 30, 7, 9, 33, 4}, .n = 290, .k = 40});  // many: one task multiplies a whole group
}

TEST(ScaledProducts, ARowDoesNotDependOnItsCompanyOrOnThreads) {
  for (const std::string_view isa : fast_tables()) {
    SCOPED_TRACE(isa);
    Machine one(isa, 1), two(isa, 2);
    const Case c{.rows = {230}, .n = 300, .k = 700, .parts = {100, 200}};
    const Operands o(c);
    for (const Pass pass : {Pass::forward, Pass::backward_input, Pass::backward_weight})
      EXPECT_TRUE(same_bits(result(one.context(), pass, c, o), result(two.context(), pass, c, o)));
    const Fenced all = result(two.context(), Pass::forward, c, o);
    for (std::int64_t begin = 0, rows = 1; begin < 230; begin += rows, rows = std::min(rows + 7, 230 - begin)) {
      Fenced y(DType::f32, rows, c.n);
      const ScaledMat x{o.x.codes.mat().row_range(begin, rows), o.x.scales.mat().row_range(begin, rows)};
      const std::vector<std::int64_t> offsets = {0, rows};
      one.context().kernels.scaled_forward(one.context(), x, o.view, offsets, {}, {}, y);
      ASSERT_TRUE(same_bits(y, all.mat().row_range(begin, rows))) << rows << " rows from " << begin;
    }
  }
}

// NaN codes reach the sums of their rows and columns, and no others.
TEST(ScaledProducts, ANanStaysInItsRow) {
  for (const std::string_view isa : fast_tables()) {
    SCOPED_TRACE(isa);
    Machine machine(isa, 2);
    const Case c{.rows = {40}, .n = 50, .k = 200};
    Operands o(c);
    *static_cast<std::uint8_t*>(o.x.codes.mat().at(7, 150)) = 0x7f;
    const Fenced y = result(machine.context(), Pass::forward, c, o);
    for (std::int64_t r = 0; r < 40; ++r)
      for (std::int64_t col = 0; col < c.n; ++col) EXPECT_EQ(std::isnan(get(y, r, col)), r == 7);
  }
}

// ---- Packed weights.

TEST(PackedWeights, GiveTheBitsOfRowMajorOnes) {
  for (const std::string_view isa : runnable()) {
    SCOPED_TRACE(isa);
    Machine machine(isa, 2);
    const Context& ctx = machine.context();
    for (const DType type : {DType::f32, DType::bf16, DType::e4m3})
      for (const std::int64_t n : {1, 130})
        for (const std::int64_t k : {50, 257, 1100}) {
          const Case c{.rows = {3, 0, 40}, .n = n, .k = k};
          SCOPED_TRACE(fmt::format("{} n {} k {}", core::name_of(type), n, k));
          const Operands o(c);
          const Fenced x = random_matrix(type == DType::f32 ? DType::f32 : DType::bf16, o.slots, k, 7),
                       w = random_matrix(type, 3 * n, k, 8);
          WeightView view = o.view;
          if (type != DType::e4m3) view = {w.mat().data, type, 3, n, k};
          core::Arena memory("packed", ctx.kernels.packed_bytes(ctx, view));
          WeightView packed = view;
          packed.data = memory.take(ctx.kernels.packed_bytes(ctx, view));
          packed.packed = true;
          ctx.kernels.pack_weights(ctx, view, const_cast<void*>(packed.data));
          Fenced y(DType::f32, o.slots, n), want = y;
          for (const auto& [v, out] : {std::pair{&packed, &y}, std::pair{&view, &want}}) {
            if (type == DType::e4m3) ctx.kernels.scaled_forward(ctx, o.x, *v, o.offsets, {}, {}, *out);
            else ctx.kernels.linear_forward(ctx, x, *v, o.offsets, {}, *out);
          }
          ASSERT_TRUE(same_bits(y, want));
          ASSERT_TRUE(y.fences_stand());
        }
  }
}

}  // namespace
}  // namespace finback::kernels::test
