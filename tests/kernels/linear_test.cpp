// Linear layers: every table against the reference twin, and the exactness that kernels.h promises.
#include "tests/kernels/kernel_case.h"

#include <algorithm>
#include <iterator>

namespace finback::kernels::test {
namespace {

TEST(Linear, TheReferenceIsTheThreeProductsOfTheDefinition) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  // Two experts of 2 x 3; rows 0 and 1 go to expert 0, row 2 to expert 1.
  const double w[] = {1, 2, 3, 4, 5, 6, /**/ -1, 0, 1, 2, 0, -2};
  const double x[] = {1, 0, -1, 2, 1, 0, 1, 2, 3};
  const std::vector<std::int64_t> offsets = {0, 2, 3};
  const WeightView view{w, DType::f64, 2, 2, 3};
  Fenced y = constant_matrix(DType::f64, 3, 2, 10), dx(DType::f64, 3, 3), dw = constant_matrix(DType::f64, 4, 3, 100);
  ctx.kernels.linear_forward(ctx, core::const_mat(x, DType::f64, 3, 3), view, offsets, y, y);
  const double want_y[] = {10 - 2, 10 - 2, 10 + 4, 10 + 13, 10 + 2, 10 - 4};
  EXPECT_TRUE(same_bits(y, core::const_mat(want_y, DType::f64, 3, 2)));

  const double dy[] = {1, 1, 0, 2, 3, -1};
  ctx.kernels.linear_backward_input(ctx, core::const_mat(dy, DType::f64, 3, 2), view, offsets, {}, dx);
  const double want_dx[] = {5, 7, 9, 8, 10, 12, -5, 0, 5};
  EXPECT_TRUE(same_bits(dx, core::const_mat(want_dx, DType::f64, 3, 3)));

  ctx.kernels.linear_backward_weight(ctx, core::const_mat(dy, DType::f64, 3, 2), core::const_mat(x, DType::f64, 3, 3), offsets, dw);
  const double want_dw[] = {101, 100, 99, 105, 102, 99, 103, 106, 109, 99, 98, 97};
  EXPECT_TRUE(same_bits(dw, core::const_mat(want_dw, DType::f64, 4, 3)));
  EXPECT_TRUE(y.fences_stand() && dx.fences_stand() && dw.fences_stand());
}

enum class Pass { forward, backward_input, backward_weight };
constexpr Pass kPasses[] = {Pass::forward, Pass::backward_input, Pass::backward_weight};

// One grouped product with all that it reads and writes. `rows` are those of each group.
struct Case {
  Pass pass;
  DType storage, output;
  std::vector<std::int64_t> rows;
  std::int64_t n, k;
  std::int64_t gap = 0;  // elements between the rows of the operands and of the output
  bool addend = false;

  std::vector<std::int64_t> offsets() const {
    std::vector<std::int64_t> o = {0};
    for (std::int64_t r : rows) o.push_back(o.back() + r);
    return o;
  }
};

std::string describe(const Case& c) {
  return fmt::format("pass {} storage {} output {} rows {} n {} k {} gap {} addend {}", static_cast<int>(c.pass), core::name_of(c.storage),
                     core::name_of(c.output), fmt::join(c.rows, ","), c.n, c.k, c.gap, c.addend);
}

struct Operands {
  explicit Operands(const Case& c)
      : groups(static_cast<std::int64_t>(c.rows.size())),
        slots(c.offsets().back()),
        x(random_matrix(c.storage, slots, c.k, 1, 1, c.gap)),
        dy(random_matrix(c.storage, slots, c.n, 2, 1, c.gap)),
        w(random_matrix(c.storage, groups * c.n, c.k, 3)),
        output(c.pass == Pass::forward          ? random_matrix(c.output, slots, c.n, 4, 1, c.gap)
               : c.pass == Pass::backward_input ? random_matrix(c.output, slots, c.k, 4, 1, c.gap)
                                                : random_matrix(c.output, groups * c.n, c.k, 4, 1, c.gap)) {}
  std::int64_t groups, slots;
  Fenced x, dy, w;
  Fenced output;  // holds the addend
};

// Runs the case's pass on operands o from row `begin` on; the addend is the output itself.
void run(const Context& ctx, const Case& c, const Operands& o, const std::vector<std::int64_t>& offsets, ConstMat x, ConstMat dy, Mat out) {
  const WeightView w{o.w.mat().data, c.storage, static_cast<std::int64_t>(offsets.size()) - 1, c.n, c.k};
  const ConstMat addend = c.addend ? ConstMat(out) : ConstMat{};
  if (c.pass == Pass::forward) ctx.kernels.linear_forward(ctx, x, w, offsets, addend, out);
  if (c.pass == Pass::backward_input) ctx.kernels.linear_backward_input(ctx, dy, w, offsets, addend, out);
  if (c.pass == Pass::backward_weight) ctx.kernels.linear_backward_weight(ctx, dy, x, offsets, out);
}

Fenced result(const Context& ctx, const Case& c, const Operands& o) {
  Fenced out = o.output;
  run(ctx, c, o, c.offsets(), o.x, o.dy, out);
  return out;
}

// A sum of K products of normals in f32, each rounding at most 2^-24 of a partial sum that is about √K: below K · √K · 2^-24 in
// the worst case, about √K · √K · 2^-24 = K · 2^-24 in practice, four times of which we allow; then
// both sides are rounded to the output's type.
Tolerance tolerance(const Case& c) {
  const std::int64_t terms = c.pass == Pass::forward          ? c.k
                             : c.pass == Pass::backward_input ? c.n
                                                              : *std::max_element(c.rows.begin(), c.rows.end());
  return {.absolute = 4.0 * static_cast<double>(terms) * 0x1p-24 + 0x1p-22, .relative = 2 * half_ulp(c.output)};
}

void expect_like_the_reference(const Context& ctx, const Case& c) {
  SCOPED_TRACE(describe(c));
  const Operands o(c);
  Machine plain("reference", 1);
  const Fenced got = result(ctx, c, o), want = result(plain.context(), c, o);
  EXPECT_TRUE(close(got, want, tolerance(c)));
  EXPECT_TRUE(got.fences_stand());
}

std::vector<DType> outputs(Pass pass, DType storage) {
  if (pass == Pass::backward_weight || storage == DType::f32) return {DType::f32};
  return {DType::bf16, DType::f32};
}

TEST(Linear, OddSizesAgreeWithTheReference) {
  const std::int64_t sizes[] = {1, 2, 7, 16, 17, 33, 64, 129};
  for (std::string_view isa : fast_tables()) {
    SCOPED_TRACE(isa);
    Machine machine(isa, 2);
    std::uint32_t turn = 0;
    for (Pass pass : kPasses)
      for (DType storage : {DType::f32, DType::bf16})
        for (DType output : outputs(pass, storage))
          for (std::int64_t n : sizes)
            for (std::int64_t k : sizes) {
              const std::int64_t rows = sizes[turn % std::size(sizes)];
              Case c{pass, storage, output, {rows}, n, k, /*gap=*/turn % 3, /*addend=*/turn % 2 == 1};
              if (pass == Pass::backward_weight) c.addend = true;
              expect_like_the_reference(machine.context(), c);
              turn += 5;
            }
  }
}

TEST(Linear, GroupsOfAllSizesAgreeWithTheReference) {
  for (std::string_view isa : fast_tables()) {
    SCOPED_TRACE(isa);
    Machine machine(isa, 2);
    for (Pass pass : kPasses)
      for (DType storage : {DType::f32, DType::bf16}) {
        expect_like_the_reference(machine.context(), {pass, storage, DType::f32, {0, 5, 0, 0, 70, 1, 130, 0}, 72, 50, 1, true});
        expect_like_the_reference(machine.context(), {pass, storage, DType::f32, {0, 0}, 8, 8, 0, true});
      }
  }
}

// More than one slice of k, and of rows in backward_weight.
TEST(Linear, LongSumsAgreeWithTheReference) {
  for (std::string_view isa : fast_tables()) {
    SCOPED_TRACE(isa);
    Machine machine(isa, 2);
    for (DType storage : {DType::f32, DType::bf16}) {
      expect_like_the_reference(machine.context(), {Pass::forward, storage, DType::f32, {3, 60}, 40, 1301, 1, true});
      expect_like_the_reference(machine.context(), {Pass::backward_input, storage, DType::f32, {3, 60}, 1301, 40, 1, true});
      expect_like_the_reference(machine.context(), {Pass::backward_weight, storage, DType::f32, {3, 1301}, 40, 65, 1, true});
    }
  }
}

TEST(Linear, DoublesAreTheReferences) {
  Machine fast(runnable().back(), 2), plain("reference", 1);
  for (Pass pass : kPasses) {
    const Case c{pass, DType::f64, DType::f64, {3, 0, 4}, 5, 6, 1, true};
    const Operands o(c);
    EXPECT_TRUE(same_bits(result(fast.context(), c, o), result(plain.context(), c, o)));
  }
}

// A row of y or dx is a function of that row of x or dy alone: the same bits alone and among many, in any split into calls, by one
// thread and by two.
TEST(Linear, ARowDoesNotDependOnItsCompany) {
  const core::Rng rng(/*seed=*/2, core::Stream::test);
  for (std::string_view isa : fast_tables()) {
    SCOPED_TRACE(isa);
    Machine one(isa, 1), two(isa, 2);
    for (Pass pass : {Pass::forward, Pass::backward_input})
      for (DType storage : {DType::f32, DType::bf16})
        for (std::int64_t k : {64, 1031}) {
          const std::int64_t n = pass == Pass::forward ? 72 : 530;
          const Case all{pass, storage, DType::f32, {300}, n, k, 0, true};
          SCOPED_TRACE(describe(all));
          const Operands o(all);
          const Fenced want = result(two.context(), all, o);
          EXPECT_TRUE(same_bits(result(one.context(), all, o), want));
          std::int64_t begin = 0;
          for (std::int64_t turn = 0; begin < 300; ++turn) {
            const auto few =
                turn % 8 == 7 ? 1 + static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(turn), 100)) : 1 + turn % 40;
            const std::int64_t rows = std::min(few, 300 - begin);
            Fenced y = o.output;
            run(turn % 2 ? one.context() : two.context(), all, o, {0, rows}, o.x.mat().row_range(begin, rows),
                o.dy.mat().row_range(begin, rows), y.mat().row_range(begin, rows));
            ASSERT_TRUE(same_bits(y.mat().row_range(begin, rows), want.mat().row_range(begin, rows))) << rows << " rows from " << begin;
            begin += rows;
          }
        }
  }
}

// Rows spread over groups with equal weights give what one group gives.
TEST(Linear, ARowDoesNotDependOnTheSplitIntoGroups) {
  const core::Rng rng(/*seed=*/3, core::Stream::test);
  for (std::string_view isa : fast_tables()) {
    SCOPED_TRACE(isa);
    Machine machine(isa, 2);
    for (Pass pass : {Pass::forward, Pass::backward_input})
      for (DType storage : {DType::f32, DType::bf16}) {
        const std::int64_t rows = 250, n = 70, k = 600, groups = 6;
        const Case one_group{pass, storage, DType::f32, {rows}, n, k, 0, true};
        Operands o(one_group);
        const Fenced want = result(machine.context(), one_group, o);
        Fenced copies(storage, groups * n, k);
        for (std::int64_t r = 0; r < groups * n; ++r)
          for (std::int64_t c = 0; c < k; ++c) put(copies, r, c, get(o.w, r % n, c));
        o.w = copies;
        for (std::uint64_t split = 0; split < 4; ++split) {
          std::vector<std::int64_t> offsets = {0, rows};
          for (std::int64_t g = 1; g < groups; ++g)
            offsets.push_back(static_cast<std::int64_t>(rng.below(split * 16 + static_cast<std::uint64_t>(g), rows + 1)));
          std::sort(offsets.begin(), offsets.end());
          Fenced y = o.output;
          run(machine.context(), one_group, o, offsets, o.x, o.dy, y);
          EXPECT_TRUE(same_bits(y, want)) << fmt::format("{}", fmt::join(offsets, ","));
        }
      }
  }
}

// Where groups are many, one task multiplies a whole one, several blocks of rows (of dw too) after each other: the bits of each group
// alone.
TEST(Linear, ManyGroupsGiveWhatEachGivesAlone) {
  const std::vector<std::int64_t> rows = {3, 520, 1, 2, 300, 7, 0, 33, 64, 5};
  for (std::string_view isa : fast_tables()) {
    SCOPED_TRACE(isa);
    Machine machine(isa, 2);
    for (Pass pass : kPasses)
      for (DType storage : {DType::f32, DType::bf16}) {
        const Case all{pass, storage, DType::f32, rows, 290, 70, 0, true};
        const Operands o(all);
        const Fenced got = result(machine.context(), all, o);
        for (std::size_t g = 0, begin = 0; g < rows.size(); begin += static_cast<std::size_t>(rows[g++])) {
          const auto first = static_cast<std::int64_t>(begin), group = static_cast<std::int64_t>(g);
          Operands alone = o;
          alone.w = Fenced(storage, all.n, all.k);
          for (std::int64_t r = 0; r < all.n; ++r)
            for (std::int64_t c = 0; c < all.k; ++c) put(alone.w, r, c, get(o.w, group * all.n + r, c));
          const bool weight = pass == Pass::backward_weight;
          const std::int64_t at = weight ? group * all.n : first, count = weight ? all.n : rows[g];
          run(machine.context(), all, alone, {0, rows[g]}, o.x.mat().row_range(first, rows[g]), o.dy.mat().row_range(first, rows[g]),
              alone.output.mat().row_range(at, count));
          EXPECT_TRUE(same_bits(alone.output.mat().row_range(at, count), got.mat().row_range(at, count)))
              << describe(all) << " group " << g;
        }
      }
  }
}

// The sum of a call is formed first and then added, in one order whatever the threads.
TEST(Linear, WeightGradientsAreAddedCallByCall) {
  for (std::string_view isa : fast_tables()) {
    SCOPED_TRACE(isa);
    Machine one(isa, 1), two(isa, 2);
    for (DType storage : {DType::f32, DType::bf16}) {
      const Case c{Pass::backward_weight, storage, DType::f32, {20, 0, 700}, 45, 70, 3, true};
      const Operands o(c);
      const Fenced got = result(two.context(), c, o);
      EXPECT_TRUE(same_bits(result(one.context(), c, o), got));
      Operands from_zero = o;
      from_zero.output = constant_matrix(DType::f32, o.output.mat().rows, c.k, 0, c.gap);
      Fenced sum = result(one.context(), c, from_zero);
      for (std::int64_t r = 0; r < sum.mat().rows; ++r)
        for (std::int64_t i = 0; i < c.k; ++i) sum.mat().row<float>(r)[i] += o.output.mat().row<float>(r)[i];
      EXPECT_TRUE(same_bits(got, sum));
    }
  }
}

// A weight so large that its panels do not fit the scratch memory at once.
TEST(Linear, LargeWeightsArePackedInTurns) {
  const std::int64_t rows = 60, n = 16384, k = 2048;
  const std::string_view isa = runnable().back();
  Machine machine(isa, 2);
  const Case c{Pass::forward, DType::f32, DType::f32, {rows}, n, k, 0, false};
  Fenced w(DType::f32, n, k);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < k; ++j) w.mat().row<float>(i)[j] = static_cast<float>((i * 31 + j * 17) % 64 - 32);
  // Whole numbers: every sum is exact, whatever its order.
  Fenced x(DType::f32, rows, k), y(DType::f32, rows, n);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < k; ++j) x.mat().row<float>(i)[j] = static_cast<float>((i * 7 + j * 3) % 16 - 8);
  const std::vector<std::int64_t> offsets = {0, rows};
  machine.kernels().linear_forward(machine.context(), x, {w.mat().data, DType::f32, 1, n, k}, offsets, {}, y);
  for (std::int64_t i = 0; i < rows; i += 13)
    for (std::int64_t j = 0; j < n; j += 61) {
      float sum = 0;
      for (std::int64_t q = 0; q < k; ++q) sum += x.mat().row<float>(i)[q] * w.mat().row<float>(j)[q];
      ASSERT_EQ(y.mat().row<float>(i)[j], sum) << i << ", " << j;
    }
  EXPECT_TRUE(y.fences_stand());
}

}  // namespace
}  // namespace finback::kernels::test
