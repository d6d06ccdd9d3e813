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

}  // namespace
}  // namespace finback::kernels::test
