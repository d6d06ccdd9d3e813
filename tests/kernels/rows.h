// What the tests of row-wise functions share: the cases to run, and the two exactness rules of kernels.h.
#pragma once

#include "tests/kernels/kernel_case.h"

#include <fmt/format.h>

#include <initializer_list>
#include <string_view>
#include <vector>

namespace finback::kernels::test {

constexpr double kSingle = 0x1p-24;  // half a unit in the last place of an f32, relative

// The relative error of a sum of n terms in f32, in 64 partial sums (cpu/simd.h, sum_over), by Σ|terms|: each partial sum adds
// n/64 times, and the tree over them some 8 times more.
constexpr double sum_error(std::int64_t n) { return (static_cast<double>(n) / 64 + 8) * kSingle; }

// body(isa, dtype) for every fast table and both of its storage types.
template <class Body>
void for_each_case(Body&& body) {
  for (const std::string_view isa : fast_tables())
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(fmt::format("{} {}", isa, core::name_of(dtype)));
      body(isa, dtype);
    }
}

// Checks a row-wise function against its reference twin, then bit by bit: two threads as one, each row alone as among the
// others, fences whole. run(context, first_row, rows, y) computes those rows into y.
template <class Run>
void expect_row_wise(std::string_view isa, DType dtype, std::int64_t rows, std::int64_t cols, Tolerance tolerance, Run run) {
  Machine twin("reference", 1), one(isa, 1), two(isa, 2);
  Fenced want(dtype, rows, cols), y(dtype, rows, cols, /*gap=*/3), y_two(dtype, rows, cols);
  run(twin.context(), 0, rows, want.mat());
  run(one.context(), 0, rows, y.mat());
  run(two.context(), 0, rows, y_two.mat());
  EXPECT_TRUE(close(y, want, tolerance));
  EXPECT_TRUE(y.fences_stand());
  EXPECT_TRUE(same_bits(y_two, y));
  Fenced alone(dtype, rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) run(one.context(), r, 1, alone.mat().row_range(r, 1));
  EXPECT_TRUE(same_bits(alone, y));
  run(one.context(), 0, 0, y.mat().row_range(0, 0));
  EXPECT_TRUE(same_bits(y_two, y));
}

// Numbers whose sums are exact in f32: eighths of small integers.
inline Fenced exact_matrix(DType dtype, std::int64_t rows, std::int64_t cols, std::uint32_t substream, std::int64_t gap = 0) {
  Fenced m = random_matrix(dtype, rows, cols, substream, 1, gap);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) put(m, r, c, std::round(8 * get(m, r, c)) / 8);
  return m;
}

inline std::vector<std::int32_t> random_indices(std::int64_t n, std::int64_t below, std::uint32_t substream) {
  const core::Rng rng(1, core::Stream::test, substream);
  std::vector<std::int32_t> index(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < index.size(); ++i) index[i] = static_cast<std::int32_t>(rng.below(i, static_cast<std::uint64_t>(below)));
  return index;
}

// A run of `count` indices, as a row-wise function takes them.
inline std::span<const std::int32_t> part(const std::vector<std::int32_t>& all, std::int64_t first, std::int64_t count) {
  return std::span(all).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
}

}  // namespace finback::kernels::test
