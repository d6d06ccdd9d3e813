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

}  // namespace finback::kernels::test
