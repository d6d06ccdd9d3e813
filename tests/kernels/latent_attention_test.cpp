// Attention over a latent cache: the reference twin against plain attention on keys and values that it expands, the fast tables against
// the reference twin, and the promises about bits (kernels.h, "Exactness"). Beside it the products by slices that absorb W_UK and W_UV.
#include "tests/kernels/kernel_case.h"

#include <algorithm>
#include <array>
#include <functional>

namespace finback::kernels::test {
namespace {

// Sequences of so many positions, of which the last `rows` ask; pages in an order of their own, with a stranger's between them.
struct Sequence {
  std::int64_t positions = 0, rows = 0;
  std::int64_t pages() const { return (positions + kPage - 1) / kPage; }
};
template <class Of>
std::int64_t sum(const std::vector<Sequence>& sequences, Of of) {
  std::int64_t total = 0;
  for (const Sequence& s : sequences) total += std::invoke(of, s);
  return total;
}

struct Case {
  Case(const AttentionShape& s, std::int64_t latent, const std::vector<Sequence>& sequences, DType storage)
      : shape(s),
        C(latent),
        q_latent(random_matrix(storage, sum(sequences, &Sequence::rows), s.heads * C, 1, 1, /*gap=*/3)),
        q(random_matrix(storage, sum(sequences, &Sequence::rows), s.heads * (s.nope + s.rope), 2, 1, /*gap=*/5)),
        cache(constant_matrix(storage, 2 * sum(sequences, &Sequence::pages) * kPage, C + s.rope, NAN)),
        o(storage, sum(sequences, &Sequence::rows), s.heads * C, 2) {
    std::int64_t row = 0, page = sum(sequences, &Sequence::pages);
    for (const Sequence& sequence : sequences) {
      std::vector<std::int32_t>& table = pages.emplace_back();
      for (std::int64_t i = 0; i < sequence.pages(); ++i) table.push_back(static_cast<std::int32_t>(2 * --page + 1));
      const Fenced keys = random_matrix(storage, sequence.positions, C + s.rope, static_cast<std::uint32_t>(10 + row));
      for (std::int64_t j = 0; j < sequence.positions; ++j)
        for (std::int64_t d = 0; d < C + s.rope; ++d) put(cache, key_row(pages.size() - 1, j), d, get(keys, j, d));
      segments.push_back({row, sequence.rows, sequence.positions - sequence.rows, nullptr});
      row += sequence.rows;
    }
  }
  std::int64_t key_row(std::size_t sequence, std::int64_t j) const {
    return pages[sequence][static_cast<std::size_t>(j / kPage)] * kPage + j % kPage;
  }
  void forward(const Machine& m) {
    std::vector<PagedSegment> at = segments;
    for (std::size_t i = 0; i < at.size(); ++i) at[i].pages = pages[of.empty() ? i : of[i]].data();
    m.kernels().latent_attention(m.context(), q_latent, q, cache, at, shape, o);
  }

  AttentionShape shape;
  std::int64_t C;
  std::vector<std::vector<std::int32_t>> pages;
  std::vector<PagedSegment> segments;
  std::vector<std::size_t> of;  // the sequence of each segment; empty: one each
  Fenced q_latent, q, cache, o;
};

const std::vector<Sequence> kLengths = {{1, 1}, {5, 5}, {64, 64}, {65, 1}, {200, 90}, {513, 3}, {1300, 40}, {1100, 1}};
struct Shape {
  AttentionShape attention;
  std::int64_t latent;
};
// The last one's keys are whole registers, as in published models, and its values more than pass at a time.
const Shape kShapes[] = {{{.heads = 1, .nope = 3, .rope = 2, .scale = 0.5}, 5},
                         {{.heads = 3, .nope = 16, .rope = 7, .scale = 0.2}, 30},
                         {{.heads = 2, .nope = 8, .rope = 32, .scale = 0.1}, 160}};
constexpr DType kStorages[] = {DType::f32, DType::bf16};

template <class Body>
void for_each_path(Body&& body) {
  for (std::string_view isa : fast_tables())
    for (DType storage : kStorages)
      for (const Shape& shape : kShapes) {
        SCOPED_TRACE(fmt::format("{} {} {}", isa, core::name_of(storage), shape.latent));
        body(isa, storage, shape);
      }
}

// With W_UK = W_UV = the identity a head's plain keys are [c_kv | k_pe] and its values c_kv.
TEST(LatentAttentionReference, IsPlainAttentionOnExpandedKeys) {
  const Machine m("reference", 1);
  Case c({.heads = 2, .nope = 4, .rope = 3, .scale = 0.3}, 4, {{70, 70}}, DType::f64);
  c.forward(m);
  Fenced q(DType::f64, 70, 2 * 7), kv(DType::f64, 70, 2 * 8), k_pe(DType::f64, 70, 3), o(DType::f64, 70, 8), lse(DType::f64, 70, 2);
  for (std::int64_t t = 0; t < 70; ++t)
    for (std::int64_t d = 0; d < 7; ++d)
      for (std::int64_t h = 0; h < 2; ++h) {
        put(q, t, h * 7 + d, d < 4 ? get(c.q_latent, t, h * 4 + d) : get(c.q, t, h * 7 + d));
        const double key = get(c.cache, c.key_row(0, t), d);
        if (d >= 4) put(k_pe, t, d - 4, key);
        else put(kv, t, h * 8 + d, key), put(kv, t, h * 8 + 4 + d, key);
      }
  const Segment whole{.rows = 70};
  m.kernels().attention_forward(m.context(), q, kv, k_pe, {&whole, 1}, {.heads = 2, .nope = 4, .rope = 3, .value = 4, .scale = 0.3}, o,
                                lse);
  EXPECT_LT(difference(c.o, o), 1e-14);
}

// The bound of attention_test.cpp, with the largest |score| and |value| that random_matrix's normal numbers give here (norms of n of them
// lie below sqrt(n) + 4): an error of a score, (n + 3) · 2^-24 · scale · |q| |k|, weighs twice; the sums over keys add an ulp each; bf16
// rounds weights and results.
TEST(LatentAttention, IsTheReferences) {
  for (DType storage : kStorages)
    for (const Shape& shape : kShapes) {
      Case want(shape.attention, shape.latent, kLengths, storage), got = want;
      want.forward(Machine("reference", 1));
      const double n = static_cast<double>(shape.latent + shape.attention.rope), norm = std::sqrt(n) + 4, half = half_ulp(storage);
      const double weights = 2 * (n + 3) * 0x1p-24 * shape.attention.scale * norm * norm + (2 * 1300 + 8) * 0x1p-24;
      for (std::string_view isa : fast_tables())
        for (const int threads : {1, 2}) {
          SCOPED_TRACE(fmt::format("{} {} {}", isa, core::name_of(storage), shape.latent));
          got.o = Fenced(storage, want.o.mat().rows, want.o.mat().cols, 2);
          got.forward(Machine(isa, threads));
          EXPECT_TRUE(close(got.o, want.o, {.absolute = 5 * (weights + (half > 0x1p-20 ? half : 0)), .relative = 2 * half}));
          EXPECT_LT(difference(got.o, want.o), 2 * (weights + half));
          EXPECT_TRUE(got.o.fences_stand());
        }
    }
}

// A sequence whole, in pieces of many rows and of few, and rows alone, with one thread or four (so that spans are joined within a task
// and from several).
TEST(LatentAttention, RowsDoNotDependOnHowASequenceIsSplit) {
  for_each_path([](std::string_view isa, DType storage, const Shape& shape) {
    constexpr std::int64_t kRows = 580;
    Case whole(shape.attention, shape.latent, {{kRows, kRows}}, storage);
    whole.forward(Machine(isa, 2));
    Case split = whole;
    split.segments.clear();
    for (std::int64_t i = 0, n = 190; i < kRows; i += n, n = i < 380 ? 190 : i % 9 + 1)
      split.segments.push_back({i, std::min(n, kRows - i), i, nullptr});
    split.of.assign(split.segments.size(), 0);
    split.o = Fenced(storage, kRows, shape.attention.heads * shape.latent, 2);
    split.forward(Machine(isa, 1));
    EXPECT_TRUE(same_bits(split.o, whole.o));
    Case alone = whole;
    for (const int threads : {1, 4}) {
      const Machine machine(isa, threads);
      for (const std::int64_t row : {0, 63, 64, 511, 512, 579}) {
        alone.segments = {{row, 1, row, nullptr}};
        alone.forward(machine);
        EXPECT_TRUE(same_bits(alone.o.mat().row_range(row, 1), whole.o.mat().row_range(row, 1))) << row << ", " << threads << " threads";
      }
    }
  });
}

// Pages elsewhere, the neighbours' NaN (every other page of a Case is), and what lies in the last page beyond the last key.
TEST(LatentAttention, RowsDoNotDependOnPagesOrOtherSequences) {
  for_each_path([](std::string_view isa, DType storage, const Shape& shape) {
    const Machine machine(isa, 2);
    Case among(shape.attention, shape.latent, {{70, 20}, {150, 33}, {600, 2}}, storage), alone = among;
    among.forward(machine);
    alone.segments = {among.segments[1]};
    alone.of = {1};
    for (std::int64_t d = 0; d < shape.latent + shape.attention.rope; ++d) {
      for (std::int64_t j = 150; j < 192; ++j) put(alone.cache, alone.key_row(1, j), d, 3e38);
      for (std::int64_t j = 0; j < 64; ++j) {
        const std::int64_t from = alone.key_row(1, j), to = (alone.pages[1][0] - 1) * kPage + j;
        put(alone.cache, to, d, get(alone.cache, from, d));
        put(alone.cache, from, d, NAN);
      }
    }
    --alone.pages[1][0];
    alone.forward(machine);
    EXPECT_TRUE(same_bits(alone.o.mat().row_range(20, 33), among.o.mat().row_range(20, 33)));
  });
}

TEST(LatentAttention, NeverSeesLaterKeys) {
  for_each_path([](std::string_view isa, DType storage, const Shape& shape) {
    const Machine machine(isa, 2);
    Case before(shape.attention, shape.latent, {{540, 540}}, storage), after = before;
    for (std::int64_t j = 520; j < 540; ++j)
      for (std::int64_t d = 0; d < shape.latent + shape.attention.rope; ++d)
        put(after.cache, after.key_row(0, j), d, -1e4 * get(before.cache, before.key_row(0, j), d));
    before.forward(machine);
    after.forward(machine);
    EXPECT_TRUE(same_bits(after.o.mat().row_range(0, 520), before.o.mat().row_range(0, 520)));
    EXPECT_FALSE(same_bits(after.o.mat().row_range(520, 1), before.o.mat().row_range(520, 1)));
  });
}

// Each slice is a product of its own, bit for bit, with weights packed or not.
TEST(LinearSlices, AreTheProductsOfSlices) {
  constexpr std::int64_t G = 3, N = 64, K = 24, kXStep = 31, kYStep = 70;
  for (std::string_view isa : runnable())
    for (DType storage : kStorages)
      for (const std::int64_t rows : {0, 1, 5, 70}) {
        SCOPED_TRACE(fmt::format("{} {} {} rows", isa, core::name_of(storage), rows));
        const Machine m(isa, 2);
        const Fenced x = random_matrix(storage, rows, G * kXStep, 1, 1, /*gap=*/1), w = random_matrix(storage, G * N, K, 2);
        Fenced got(storage, rows, G * kYStep, 2), want = got;
        WeightView view{.data = w.mat().data, .dtype = storage, .groups = G, .rows = N, .cols = K};
        const std::array<std::int64_t, 2> offsets{0, rows};
        for (std::int64_t g = 0; g < G; ++g) {
          const WeightView one{.data = view.group(g).data, .dtype = storage, .rows = N, .cols = K};
          m.kernels().linear_forward(m.context(), x.mat().columns(g * kXStep, K), one, offsets, {}, want.mat().columns(g * kYStep, N));
        }
        core::Arena memory("packed", 1 << 20);
        for (const bool packed : {false, true}) {
          if (packed) {
            void* place = memory.take(m.kernels().packed_bytes(m.context(), view));
            m.kernels().pack_weights(m.context(), view, place);
            view.data = place;
            view.packed = true;
          }
          m.kernels().linear_slices(m.context(), x, kXStep, view, got, kYStep);
          for (std::int64_t g = 0; g < G; ++g) EXPECT_TRUE(same_bits(got.mat().columns(g * kYStep, N), want.mat().columns(g * kYStep, N)));
          EXPECT_TRUE(got.fences_stand());
        }
      }
}

}  // namespace
}  // namespace finback::kernels::test
