// Attention: the reference twin against central differences, the fast tables against the reference twin, and the promises about
// bits (kernels.h, "Exactness").
#include "tests/kernels/kernel_case.h"

#include <algorithm>

namespace finback::kernels::test {
namespace {

// Three sequences of 5, 1 and 9 positions; the second's and third's rows stand in another order than their keys.
const std::vector<Segment> kRagged = {
    {.q_row = 0, .rows = 5, .kv_row = 0}, {.q_row = 14, .rows = 1, .kv_row = 5}, {.q_row = 5, .rows = 9, .kv_row = 6}};

std::int64_t rows_of(std::span<const Segment> segments) {
  std::int64_t rows = 0;
  for (const Segment& s : segments) rows = std::max(rows, s.q_row + s.rows);
  return rows;
}
std::int64_t kv_rows_of(std::span<const Segment> segments) {
  std::int64_t rows = 0;
  for (const Segment& s : segments) rows = std::max(rows, s.kv_row + s.first_position + s.rows);
  return rows;
}
DType accumulator(DType storage) { return storage == DType::f64 ? DType::f64 : DType::f32; }

// Inputs and outputs of one call. The outputs hold NaN until they are written; every matrix has a gap between its rows.
struct Case {
  Case(const AttentionShape& s, std::span<const Segment> segs, DType storage)
      : shape(s),
        segments(segs.begin(), segs.end()),
        q(random_matrix(storage, rows_of(segs), s.heads * (s.nope + s.rope), 1, 1, /*gap=*/3)),
        kv(random_matrix(storage, kv_rows_of(segs), s.heads * (s.nope + s.value), 2, 1, /*gap=*/5)),
        k_pe(random_matrix(storage, kv_rows_of(segs), s.rope, 3, 1, /*gap=*/1)),
        d_o(random_matrix(storage, rows_of(segs), s.heads * s.value, 4, 1, /*gap=*/7)),
        o(storage, rows_of(segs), s.heads * s.value, 2),
        lse(accumulator(storage), rows_of(segs), s.heads, 1),
        dq(storage, rows_of(segs), s.heads * (s.nope + s.rope), 4),
        dkv(storage, kv_rows_of(segs), s.heads * (s.nope + s.value), 6),
        dk_pe(storage, kv_rows_of(segs), s.rope, 2) {}

  void forward(const Machine& m) { m.kernels().attention_forward(m.context(), q, kv, k_pe, segments, shape, o, lse); }
  void backward(const Machine& m) {
    m.kernels().attention_backward(m.context(), q, kv, k_pe, o, lse, d_o, segments, shape, dq, dkv, dk_pe);
  }

  AttentionShape shape;
  std::vector<Segment> segments;
  Fenced q, kv, k_pe, d_o, o, lse, dq, dkv, dk_pe;
};

double inner_product(ConstMat a, ConstMat b) {
  double sum = 0;
  for (std::int64_t r = 0; r < a.rows; ++r)
    for (std::int64_t c = 0; c < a.cols; ++c) sum += get(a, r, c) * get(b, r, c);
  return sum;
}

// d⟨o, d_o⟩ / dx for every element of one of the case's inputs, by central differences.
Fenced central_differences(const Machine& m, Case& c, Fenced& x) {
  constexpr double kStep = 1e-5;  // truncation ~ step², rounding ~ 1e-16 / step: both near 1e-10
  Fenced gradient = x;
  for (std::int64_t r = 0; r < x.mat().rows; ++r)
    for (std::int64_t d = 0; d < x.mat().cols; ++d) {
      const double before = get(x, r, d);
      put(x, r, d, before + kStep);
      c.forward(m);
      const double above = inner_product(c.o, c.d_o);
      put(x, r, d, before - kStep);
      c.forward(m);
      put(gradient, r, d, (above - inner_product(c.o, c.d_o)) / (2 * kStep));
      put(x, r, d, before);
    }
  return gradient;
}

TEST(AttentionReference, BackwardIsTheDerivativeOfForward) {
  const Machine m("reference", 1);
  Case c({.heads = 2, .nope = 3, .rope = 2, .value = 4, .scale = 0.4}, kRagged, DType::f64);
  c.forward(m);
  c.backward(m);
  EXPECT_LT(difference(c.dq, central_differences(m, c, c.q)), 1e-8);
  EXPECT_LT(difference(c.dkv, central_differences(m, c, c.kv)), 1e-8);
  EXPECT_LT(difference(c.dk_pe, central_differences(m, c, c.k_pe)), 1e-8);
}

// One key: the softmax is 1 whatever the score, so o is v and lse is the score itself.
TEST(AttentionReference, OneTokenSeesItsOwnValue) {
  const Machine m("reference", 1);
  Case c({.heads = 2, .nope = 3, .rope = 2, .value = 4, .scale = 0.4}, std::vector<Segment>{{.rows = 1}}, DType::f64);
  c.forward(m);
  for (std::int64_t h = 0; h < 2; ++h) {
    double score = 0;
    for (std::int64_t d = 0; d < 3; ++d) score += 0.4 * get(c.q, 0, h * 5 + d) * get(c.kv, 0, h * 7 + d);
    for (std::int64_t d = 0; d < 2; ++d) score += 0.4 * get(c.q, 0, h * 5 + 3 + d) * get(c.k_pe, 0, d);
    EXPECT_NEAR(get(c.lse, 0, h), score, 1e-14);
    for (std::int64_t d = 0; d < 4; ++d) EXPECT_EQ(get(c.o, 0, h * 4 + d), get(c.kv, 0, h * 7 + 3 + d));
  }
}

// ---- the fast tables

// Several sequences of lengths around the sizes of blocks; head sizes that are no multiple of anything.
std::vector<Segment> segments_of(std::initializer_list<std::int64_t> lengths) {
  std::vector<Segment> segments;
  std::int64_t row = 0;
  for (std::int64_t n : lengths) {
    segments.push_back({.q_row = row, .rows = n, .kv_row = row});
    row += n;
  }
  return segments;
}
const std::vector<Segment> kLengths = segments_of({1, 5, 31, 32, 33, 63, 64, 65, 200, 1, 301});
const AttentionShape kShapes[] = {{.heads = 1, .nope = 3, .rope = 2, .value = 5, .scale = 0.5},
                                  {.heads = 3, .nope = 16, .rope = 17, .value = 34, .scale = 0.2},
                                  {.heads = 2, .nope = 64, .rope = 32, .value = 64, .scale = 0.1}};
constexpr DType kStorages[] = {DType::f32, DType::bf16};

// Every fast table with every storage type.
template <class Body>
void for_each_path(Body&& body) {
  for (std::string_view isa : fast_tables())
    for (DType storage : kStorages) {
      SCOPED_TRACE(fmt::format("{} {}", isa, core::name_of(storage)));
      body(isa, storage);
    }
}

// The largest Euclidean norm of a head's n columns; heads stand `stride` columns apart.
double largest_norm(ConstMat x, std::int64_t heads, std::int64_t stride, std::int64_t n) {
  double largest = 0;
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (std::int64_t d = 0; d < n; ++d) sum += std::pow(get(x, r, h * stride + d), 2);
      largest = std::max(largest, std::sqrt(sum));
    }
  return largest;
}

// How far a score may be off: a chain of n products in f32 loses at most n · 2^-24 of Σ|q·k| <= |q| |k|; scaling, and subtracting
// the maximum, three more.
double score_error(const Case& c) {
  const AttentionShape& s = c.shape;
  const double key = std::hypot(largest_norm(c.kv, s.heads, s.nope + s.value, s.nope), largest_norm(c.k_pe, 1, s.rope, s.rope));
  const double n = static_cast<double>(s.nope + s.rope);
  return (n + 3) * 0x1p-24 * s.scale * largest_norm(c.q, s.heads, s.nope + s.rope, s.nope + s.rope) * key;
}

// A weight and the sum of weights are each off by a score's error and a few ulps of exp, the two sums over keys by an ulp for each
// key. Relative to Σ p |v|, which is `magnitude`; in bf16 weights and result are rounded to 8 bits too, and exp is off by 2.7e-6 because
// of that (vexp2_short), which reaches lse by way of the sum.
testing::AssertionResult forward_agrees(const Case& got, const Case& want, const Case& magnitude) {
  const double keys = static_cast<double>(kv_rows_of(want.segments)), e = score_error(want);
  const double half = half_ulp(want.o.mat().dtype), weights = 2 * e + (2 * keys + 8) * 0x1p-24 + (half > 0x1p-20 ? half : 0);
  for (std::int64_t r = 0; r < want.o.mat().rows; ++r)
    for (std::int64_t d = 0; d < want.o.mat().cols; ++d) {
      const double w = get(want.o, r, d), bound = (1 + half) * weights * get(magnitude.o, r, d) + half * std::abs(w);
      if (!(std::abs(get(got.o, r, d) - w) <= bound * 1.01))
        return testing::AssertionFailure() << "o[" << r << ", " << d << "] is " << get(got.o, r, d) << " for " << w << ", bound " << bound;
    }
  return close(got.lse, want.lse, {.absolute = e + (keys + 8) * 0x1p-24 + (half > 0x1p-20 ? 2.7e-6 : 0), .relative = 0x1p-22});
}

// The reference's outputs, and what they would be for the values' magnitudes.
std::pair<Case, Case> reference_of(const Case& c) {
  const Machine exact("reference", 1);
  Case want = c, magnitude = c;
  const AttentionShape& s = c.shape;
  for (std::int64_t r = 0; r < c.kv.mat().rows; ++r)
    for (std::int64_t h = 0; h < s.heads; ++h)
      for (std::int64_t d = s.nope; d < s.nope + s.value; ++d) {
        const std::int64_t column = h * (s.nope + s.value) + d;
        put(magnitude.kv, r, column, std::abs(get(c.kv, r, column)));
      }
  want.forward(exact);
  magnitude.forward(exact);
  return {want, magnitude};
}

TEST(Attention, ForwardIsTheReferences) {
  for (DType storage : kStorages)
    for (const AttentionShape& shape : kShapes) {
      Case got(shape, kLengths, storage);
      const auto [want, magnitude] = reference_of(got);
      for (std::string_view isa : fast_tables()) {
        SCOPED_TRACE(fmt::format("{} {}", isa, core::name_of(storage)));
        got.forward(Machine(isa, 2));
        EXPECT_TRUE(forward_agrees(got, want, magnitude));
        EXPECT_TRUE(got.o.fences_stand() && got.lse.fences_stand());
      }
    }
}

// Scores of ±1e4 would overflow an exponential that is not relative to the highest score.
TEST(Attention, ForwardSurvivesLargeScores) {
  for_each_path([](std::string_view isa, DType storage) {
    AttentionShape shape = kShapes[1];
    shape.scale = 1000;
    Case got(shape, segments_of({100}), storage);
    const auto [want, magnitude] = reference_of(got);
    got.forward(Machine(isa, 1));
    EXPECT_TRUE(forward_agrees(got, want, magnitude));
  });
}

// A sequence as one segment, as three that read the same keys, in runs of 1 to 9 rows as when drafts are verified, and row by row as
// in decoding.
TEST(Attention, ForwardRowsDoNotDependOnHowASequenceIsSplit) {
  constexpr std::int64_t kRows = 301;
  std::vector<Segment> three, runs, rows;
  for (const auto& [begin, end] : {std::pair{0, 7}, {7, 190}, {190, 301}}) three.push_back({begin, end - begin, begin, 0});
  for (std::int64_t i = 0, n = 0; i < kRows; i += n) runs.push_back({i, n = std::min(kRows - i, n % 9 + 1), i, 0});
  for (std::int64_t i = 0; i < kRows; ++i) rows.push_back({i, 1, i, 0});
  for_each_path([&](std::string_view isa, DType storage) {
    const Machine machine(isa, 2);
    for (const AttentionShape& shape : kShapes) {
      Case whole(shape, segments_of({kRows}), storage);
      whole.forward(machine);
      for (const auto& segments : {three, runs, rows}) {
        Case split(shape, segments_of({kRows}), storage);
        split.segments = segments;
        split.forward(machine);
        EXPECT_TRUE(same_bits(split.o, whole.o)) << segments.size() << " segments";
        EXPECT_TRUE(same_bits(split.lse, whole.lse)) << segments.size() << " segments";
      }
    }
  });
}

// The second sequence alone, among others at other rows, and with a third sequence of NaN beside it.
TEST(Attention, ForwardRowsDoNotDependOnOtherSequences) {
  for_each_path([](std::string_view isa, DType storage) {
    const Machine machine(isa, 2);
    Case all(kShapes[1], segments_of({70, 100, 40}), storage), alone = all, beside_nan = all;
    alone.segments = {all.segments[1]};
    for (std::int64_t r = 170; r < 210; ++r) {
      for (std::int64_t c = 0; c < all.kv.mat().cols; ++c) put(beside_nan.kv, r, c, NAN);
      for (std::int64_t c = 0; c < all.q.mat().cols; ++c) put(beside_nan.q, r, c, NAN);
    }
    all.forward(machine);
    alone.forward(machine);
    beside_nan.forward(machine);
    for (const Case* c : {&alone, &beside_nan}) {
      EXPECT_TRUE(same_bits(c->o.mat().row_range(70, 100), all.o.mat().row_range(70, 100)));
      EXPECT_TRUE(same_bits(c->lse.mat().row_range(70, 100), all.lse.mat().row_range(70, 100)));
    }
  });
}

TEST(Attention, ForwardNeverSeesLaterKeys) {
  for_each_path([](std::string_view isa, DType storage) {
    const Machine machine(isa, 2);
    Case before(kShapes[1], segments_of({150}), storage), after = before;
    for (std::int64_t r = 83; r < 150; ++r) {
      for (std::int64_t c = 0; c < after.kv.mat().cols; ++c) put(after.kv, r, c, -1e4 * get(after.kv, r, c));
      for (std::int64_t c = 0; c < after.k_pe.mat().cols; ++c) put(after.k_pe, r, c, 1e4);
    }
    before.forward(machine);
    after.forward(machine);
    EXPECT_TRUE(same_bits(after.o.mat().row_range(0, 83), before.o.mat().row_range(0, 83)));
    EXPECT_FALSE(same_bits(after.o.mat().row_range(83, 1), before.o.mat().row_range(83, 1)));
  });
}

// Relative to the gradient's norm (Frobenius). In f32 every sum is a chain of at most n terms (head sizes, keys, queries), each
// adding 2^-24; a score's error grows through exp by its own magnitude, a few. In bf16 weights or dS and then the result are
// rounded, each by at most half an ulp and by 0.41 of that in the mean square: together less than half an ulp.
double backward_tolerance(const Case& c) {
  const double n = static_cast<double>(c.shape.nope + c.shape.rope + c.shape.value + kv_rows_of(c.segments));
  return n * 0x1p-24 * 4 + (c.q.mat().dtype == DType::bf16 ? half_ulp(DType::bf16) : 0);
}

TEST(Attention, BackwardIsTheReferences) {
  for (DType storage : kStorages)
    for (const AttentionShape& shape : kShapes) {
      const Machine exact("reference", 1);
      Case want(shape, kLengths, storage);
      want.forward(exact);
      want.backward(exact);
      for (std::string_view isa : fast_tables()) {
        SCOPED_TRACE(fmt::format("{} {} {}", isa, core::name_of(storage), shape.nope));
        Case got = want;
        got.dq = Fenced(storage, got.dq.mat().rows, got.dq.mat().cols, 4);
        got.dkv = Fenced(storage, got.dkv.mat().rows, got.dkv.mat().cols, 6);
        got.dk_pe = Fenced(storage, got.dk_pe.mat().rows, got.dk_pe.mat().cols, 2);
        got.backward(Machine(isa, 2));
        EXPECT_LT(difference(got.dq, want.dq), backward_tolerance(want));
        EXPECT_LT(difference(got.dkv, want.dkv), backward_tolerance(want));
        EXPECT_LT(difference(got.dk_pe, want.dk_pe), backward_tolerance(want));
        EXPECT_TRUE(got.dq.fences_stand() && got.dkv.fences_stand() && got.dk_pe.fences_stand());
      }
    }
}

testing::AssertionResult same_gradients(const Case& a, const Case& b) {
  if (auto same = same_bits(a.dq, b.dq); !same) return same << " in dq";
  if (auto same = same_bits(a.dkv, b.dkv); !same) return same << " in dkv";
  if (auto same = same_bits(a.dk_pe, b.dk_pe); !same) return same << " in dk_pe";
  return testing::AssertionSuccess();
}

// A sequence's gradients alone and among others, whose rows hold NaN.
TEST(Attention, BackwardDoesNotDependOnOtherSequences) {
  for_each_path([](std::string_view isa, DType storage) {
    const Machine machine(isa, 2);
    Case alone(kShapes[1], segments_of({70, 100, 40}), storage);
    for (Fenced* x : {&alone.q, &alone.kv, &alone.k_pe, &alone.d_o})
      for (std::int64_t r = 170; r < 210; ++r)
        for (std::int64_t c = 0; c < x->mat().cols; ++c) put(*x, r, c, NAN);
    Case among = alone;
    alone.segments = {alone.segments[1]};
    for (Case* c : {&alone, &among}) {
      c->forward(machine);
      c->backward(machine);
    }
    EXPECT_TRUE(same_bits(among.dq.mat().row_range(70, 100), alone.dq.mat().row_range(70, 100)));
    EXPECT_TRUE(same_bits(among.dkv.mat().row_range(70, 100), alone.dkv.mat().row_range(70, 100)));
    EXPECT_TRUE(same_bits(among.dk_pe.mat().row_range(70, 100), alone.dk_pe.mat().row_range(70, 100)));
  });
}

// With little scratch memory the heads go through in several rounds, with less still block by block.
TEST(Attention, BackwardGivesTheSameBitsInAnyMemory) {
  for_each_path([](std::string_view isa, DType storage) {
    Case plenty(kShapes[1], segments_of({301, 130}), storage);
    plenty.forward(Machine(isa, 1));
    Case little = plenty;
    plenty.backward(Machine(isa, 1));
    Team team(1);
    for (const std::int64_t kib : {640, 560, 400}) {  // rounds in fp32, rounds in bf16, neither
      SCOPED_TRACE(kib);
      Arena scratch("scratch", kib << 10);
      const Context ctx{by_name(isa), team, scratch};
      ctx.kernels.attention_backward(ctx, little.q, little.kv, little.k_pe, little.o, little.lse, little.d_o, little.segments, little.shape,
                                     little.dq, little.dkv, little.dk_pe);
      EXPECT_TRUE(same_gradients(little, plenty));
    }
  });
}

// Three threads and one head: the backward pass then goes block by block.
TEST(Attention, ThreadsDoNotChangeABit) {
  for_each_path([](std::string_view isa, DType storage) {
    const Machine one(isa, 1), two(isa, 2), three(isa, 3);
    for (const AttentionShape& shape : {kShapes[0], kShapes[1]}) {
      Case a(shape, segments_of({301}), storage), b = a, c = a;
      for (const auto& [x, machine] : {std::pair{&a, &one}, {&b, &two}, {&c, &three}}) {
        x->forward(*machine);
        x->backward(*machine);
      }
      EXPECT_TRUE(same_bits(a.o, b.o) && same_bits(a.lse, b.lse) && same_gradients(a, b));
      EXPECT_TRUE(same_bits(a.o, c.o) && same_bits(a.lse, c.lse) && same_gradients(a, c));
    }
  });
}

}  // namespace
}  // namespace finback::kernels::test
