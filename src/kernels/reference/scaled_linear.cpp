// The three products of a weight matrix on codes with scales [V3 §3.3.2].
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"
#include "numerics/narrow_accumulate.h"

#include <algorithm>
#include <array>

namespace finback::kernels::reference_kernels {
namespace {

using numerics::NarrowSum;

// A factor of one term of a sum: a code's number, the scale of its tile, and which tile that is.
struct Factor {
  double number, scale;
  std::int64_t tile;
};

// Σ a(i) · b(i) over i = 0 … n-1. The terms of a run, which lies in one tile of a and of b, are added first, then scaled.
template <class A, class B>
double wide_dot(std::int64_t n, A a, B b) {
  double total = 0;
  for (std::int64_t i = 0; i < n;) {
    const Factor first_a = a(i), first_b = b(i);
    double run = 0;
    for (; i < n && a(i).tile == first_a.tile && b(i).tile == first_b.tile; ++i) run += a(i).number * b(i).number;
    total += run * (first_a.scale * first_b.scale);
  }
  return total;
}

// The same as a tensor core forms it, instruction by instruction; none reaches beyond a run. Without promotion the scales have to
// enter before the sum.
template <class A, class B>
double narrow_dot(std::int64_t n, A a, B b, const Accumulation& how) {
  std::array<NarrowSum::Term, NarrowSum::kTerms> terms;
  NarrowSum sum(how.bits);
  float total = 0;
  for (std::int64_t i = 0; i < n;) {
    const Factor first_a = a(i), first_b = b(i);
    const double scale = first_a.scale * first_b.scale;
    const auto in_run = [&] { return i < n && a(i).tile == first_a.tile && b(i).tile == first_b.tile; };
    std::size_t count = 0;
    for (; in_run() && count < terms.size(); ++i)
      terms[count++] = NarrowSum::product(static_cast<float>(a(i).number), static_cast<float>(b(i).number), how.promote ? 1 : scale);
    sum.add(std::span(terms).first(count));
    if (how.promote && !in_run()) {
      total += static_cast<float>(sum.value()) * static_cast<float>(scale);
      sum = NarrowSum(how.bits);
    }
  }
  return how.promote ? static_cast<double>(total) : sum.value();
}

template <class A, class B>
double dot(std::int64_t n, A a, B b, const Accumulation& how) {
  return how.bits == 0 ? wide_dot(n, a, b) : narrow_dot(n, a, b, how);
}

// Element [r, c] of a matrix with 1×128 tiles.
Factor in_row_tiles(const ScaledMat& x, std::int64_t r, std::int64_t c) {
  return {get(x.codes, r, c), get(x.scales, r, c / kTile), c / kTile};
}

// Element [s, c] of a matrix with 128×1 tiles, in a group that begins with row `first` and tile `first_tile`.
Factor in_column_tiles(const ScaledMat& x, std::int64_t s, std::int64_t c, std::int64_t first, std::int64_t first_tile) {
  const std::int64_t tile = first_tile + (s - first) / kTile;
  return {get(x.codes, s, c), get(x.scales, tile, c), tile};
}

// Element [n, k] of a group of weights with 128×128 blocks.
Factor in_blocks(const WeightView& w, std::int64_t g, std::int64_t n, std::int64_t k) {
  const std::int64_t tile = g * row_tiles(w.rows, w.parts) + row_tile_of(n, w.parts);
  return {get(w.group(g), n, k), get(w.scales, tile, k / kTile), tile * tiles_of(w.cols) + k / kTile};
}

// y_SN = [addend_SN +] x_SK · w[group]_NKᵀ
void scaled_forward(const Context&, const ScaledMat& x, const WeightView& w, Offsets offsets, ConstMat addend, const Accumulation& how,
                    Mat y) {
  for (std::int64_t g = 0; g < w.groups; ++g)
    for (std::int64_t s = offsets[g]; s < offsets[g + 1]; ++s)
      for (std::int64_t n = 0; n < w.rows; ++n) {
        const double sum = dot(
            w.cols, [&](auto k) { return in_row_tiles(x, s, k); }, [&](auto k) { return in_blocks(w, g, n, k); }, how);
        put(y, s, n, addend ? get(addend, s, n) + sum : sum);
      }
}

// dx_SK = [addend_SK +] dy_SN · w[group]_NK
void scaled_backward_input(const Context&, const ScaledMat& dy, const WeightView& w, Offsets offsets, ConstMat addend,
                           const Accumulation& how, Mat dx) {
  for (std::int64_t g = 0; g < w.groups; ++g)
    for (std::int64_t s = offsets[g]; s < offsets[g + 1]; ++s)
      for (std::int64_t k = 0; k < w.cols; ++k) {
        const double sum = dot(
            w.rows, [&](auto n) { return in_row_tiles(dy, s, n); }, [&](auto n) { return in_blocks(w, g, n, k); }, how);
        put(dx, s, k, addend ? get(addend, s, k) + sum : sum);
      }
}

// dw[group]_NK += dy_SNᵀ · x_SK
void scaled_backward_weight(const Context&, const ScaledMat& dy, const ScaledMat& x, Offsets offsets, const Accumulation& how, Mat dw) {
  const std::int64_t N = dy.codes.cols, K = x.codes.cols;
  std::int64_t tile = 0;
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
    const std::int64_t first = offsets[g], rows = offsets[g + 1] - first, at = static_cast<std::int64_t>(g) * N;
    for (std::int64_t n = 0; n < N; ++n)
      for (std::int64_t k = 0; k < K; ++k) {
        const double sum = dot(
            rows, [&](auto i) { return in_column_tiles(dy, first + i, n, first, tile); },
            [&](auto i) { return in_column_tiles(x, first + i, k, first, tile); }, how);
        put(dw, at + n, k, get(dw, at + n, k) + sum);
      }
    tile += tiles_of(rows);
  }
}

}  // namespace

void add_scaled_linear(Table& table) {
  table.scaled_forward = scaled_forward;
  table.scaled_backward_input = scaled_backward_input;
  table.scaled_backward_weight = scaled_backward_weight;
}

}  // namespace finback::kernels::reference_kernels
