// Matrices of codes with scales for the tests: fenced like all others.
#pragma once

#include "tests/kernels/kernel_case.h"

#include <numeric>
#include <vector>

namespace finback::kernels::test {

struct FencedScaled {
  FencedScaled(DType format, std::int64_t rows, std::int64_t cols, std::int64_t scale_rows, std::int64_t scale_cols, std::int64_t gap = 0)
      : codes(format, rows, cols, gap), scales(DType::f32, scale_rows, scale_cols, gap) {}

  operator ScaledBuffer() { return {codes, scales}; }
  operator ScaledMat() const { return {codes, scales}; }
  testing::AssertionResult fences_stand() const { return codes.fences_stand() ? scales.fences_stand() : codes.fences_stand(); }

  Fenced codes, scales;
};

inline testing::AssertionResult same_bits(const FencedScaled& got, const FencedScaled& want) {
  const auto scales = same_bits(got.scales, want.scales);
  if (!scales) return testing::AssertionFailure() << "scales: " << scales.message();
  const auto codes = same_bits(got.codes, want.codes);
  if (!codes) return testing::AssertionFailure() << "codes: " << codes.message();
  return testing::AssertionSuccess();
}

inline FencedScaled quantized_rows(const Context& ctx, ConstMat x, const Quantization& q, std::int64_t* bad = nullptr,
                                   std::int64_t gap = 0) {
  FencedScaled y(q.format, x.rows, x.cols, x.rows, tiles_of(x.cols), gap);
  const std::int64_t count = ctx.kernels.quantize_rows(ctx, x, q, y);
  if (bad) *bad = count;
  return y;
}

inline FencedScaled quantized_columns(const Context& ctx, const ScaledMat& x, Offsets offsets, const Quantization& q,
                                      std::int64_t* bad = nullptr, std::int64_t gap = 0) {
  FencedScaled y(q.format, x.codes.rows, x.codes.cols, row_tiles(offsets), x.codes.cols, gap);
  const std::int64_t count = ctx.kernels.quantize_columns(ctx, x, offsets, q, y);
  if (bad) *bad = count;
  return y;
}

inline FencedScaled quantized_blocks(const Context& ctx, ConstMat w, std::int64_t groups, std::span<const std::int64_t> parts,
                                     const Quantization& q, std::int64_t* bad = nullptr) {
  FencedScaled y(q.format, w.rows, w.cols, groups * row_tiles(w.rows / groups, parts), tiles_of(w.cols));
  const std::int64_t count = ctx.kernels.quantize_blocks(ctx, w, groups, parts, q, y);
  if (bad) *bad = count;
  return y;
}

inline std::vector<std::int64_t> offsets_of(const std::vector<std::int64_t>& rows) {
  std::vector<std::int64_t> offsets(rows.size() + 1, 0);
  std::partial_sum(rows.begin(), rows.end(), offsets.begin() + 1);
  return offsets;
}

// Every 128 columns of a row are of another kind.
inline Fenced odd_matrix(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap) {
  const core::Rng rng(7, core::Stream::test);
  Fenced x(dtype, rows, cols, gap);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto at = static_cast<std::uint64_t>(r * cols + c);
      const double normal = rng.normal(2 * at);
      const std::uint64_t dice = rng.below(2 * at + 1, 128);
      double value = normal;
      switch ((r + c / kTile) % 12) {
        case 0:  // plain
          break;
        case 1:
          value = dice % 2 ? 0.0 : -0.0;
          break;
        case 2:  // one huge value, the others vanish or become subnormal codes
          value = c % kTile == 3 ? 1e30 : normal * std::ldexp(1, static_cast<int>(dice)) * 1e-2;
          break;
        case 3:
          value = dice == 0 ? NAN : normal;
          break;
        case 4:
          value = dice < 2 ? (dice ? INFINITY : -INFINITY) : normal;
          break;
        case 5:  // nothing finite
          value = dice % 2 ? NAN : -INFINITY;
          break;
        case 6:  // subnormal floats
          value = normal * 0x1p-140;
          break;
        case 7:  // just above and below the least scale
          value = normal * 0x1p-119;
          break;
        case 8:  // multiples of a sixteenth under a scale of 1: every second is a tie
          value = c % kTile == 0 ? 448 : std::round(normal * 32) / 16;
          break;
        case 9:  // the same with subnormal codes
          value = c % kTile == 0 ? 448 : std::round(normal * 8) * 0x1p-10;
          break;
        case 10:  // all exponents of a format
          value = normal * std::ldexp(1, static_cast<int>(dice % 40) - 20);
          break;
        default:  // the largest floats
          value = std::copysign(dice % 4 ? 0x1.fep127 : 0x1p120, normal);
      }
      put(x, r, c, value);
    }
  return x;
}

struct Shape {
  std::int64_t rows, cols, gap;
};
// Tiles and strips that are whole, that lack some, that are alone; with gaps and without.
constexpr Shape kShapes[] = {{1, 1, 0},   {3, 5, 1},     {7, 127, 0},   {12, 128, 0},
                             {5, 129, 3}, {13, 1536, 0}, {12, 1536, 8}, {4, 2048 + 128 + 70, 2}};

// Element by element; every NaN is like every other, and a bf16 that is subnormal may be 0, for which the hardware's rounding takes it.
inline testing::AssertionResult same_numbers(ConstMat got, ConstMat want) {
  for (std::int64_t r = 0; r < want.rows; ++r)
    for (std::int64_t c = 0; c < want.cols; ++c) {
      const double g = get(got, r, c), w = get(want, r, c);
      const bool flushed = want.dtype == DType::bf16 && g == 0 && std::abs(w) < 0x1p-126;
      if (!(g == w || (std::isnan(g) && std::isnan(w)) || flushed))
        return testing::AssertionFailure() << "first at [" << r << ", " << c << "]: " << fmt::format("{:.17g} for {:.17g}", g, w);
    }
  return testing::AssertionSuccess();
}

}  // namespace finback::kernels::test
