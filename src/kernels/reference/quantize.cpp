// Tiles with scales and their codes, element by element.
#include "kernels/cpu/entries.h"
#include "kernels/reference/tile.h"

namespace finback::kernels::reference_kernels {
namespace {

using numerics::e4m3;
using numerics::e5m2;

void check_shapes(ConstMat x, const ScaledBuffer& y, std::int64_t scale_rows, std::int64_t scale_cols) {
  FB_CHECK(x.rows == y.codes.rows && x.cols == y.codes.cols, "{} x {} into {} x {}", x.rows, x.cols, y.codes.rows, y.codes.cols);
  FB_CHECK(y.scales.dtype == DType::f32 && y.scales.rows == scale_rows && y.scales.cols == scale_cols, "scales {} {} x {} for {} x {}",
           core::name_of(y.scales.dtype), y.scales.rows, y.scales.cols, scale_rows, scale_cols);
}

template <class Element>
bool code_in(std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1, const Quantization& q, Element element, Mat codes,
             float& scale) {
  FB_CHECK(codes.dtype == q.format, "codes {} for {}", core::name_of(codes.dtype), core::name_of(q.format));
  if (q.format == DType::e4m3)
    return code_tile<e4m3>(
        r0, r1, c0, c1, q.power_of_two, element, [&](auto r, auto c, e4m3 x) { codes.row<e4m3>(r)[c] = x; }, scale);
  FB_CHECK(q.format == DType::e5m2, "quantisation to {}", core::name_of(q.format));
  return code_tile<e5m2>(
      r0, r1, c0, c1, q.power_of_two, element, [&](auto r, auto c, e5m2 x) { codes.row<e5m2>(r)[c] = x; }, scale);
}

// An element of a plain matrix, or of one with 1×128 tiles, as the f32 that it is or that it is formed in.
float element_of(const ScaledMat& x, std::int64_t r, std::int64_t c) {
  const auto number = static_cast<float>(get(x.codes, r, c));
  return x.scales ? number * x.scales.row<float>(r)[c / kTile] : number;
}

std::int64_t quantize_rows(const Context&, ConstMat x, const Quantization& q, const ScaledBuffer& y) {
  check_shapes(x, y, x.rows, tiles_of(x.cols));
  std::int64_t bad = 0;
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t k = 0; k < x.cols; k += kTile)
      bad += code_in(
          t, t + 1, k, std::min(k + kTile, x.cols), q, [&](auto r, auto c) { return static_cast<float>(get(x, r, c)); }, y.codes,
          y.scales.row<float>(t)[k / kTile]);
  return bad;
}

std::int64_t quantize_columns(const Context&, const ScaledMat& x, Offsets offsets, const Quantization& q, const ScaledBuffer& y) {
  check_shapes(x.codes, y, row_tiles(offsets), x.codes.cols);
  std::int64_t bad = 0, tile = 0;
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
    for (std::int64_t s = offsets[g]; s < offsets[g + 1]; s += kTile, ++tile)
      for (std::int64_t k = 0; k < x.codes.cols; ++k)
        bad += code_in(
            s, std::min(s + kTile, offsets[g + 1]), k, k + 1, q, [&](auto r, auto c) { return element_of(x, r, c); }, y.codes,
            y.scales.row<float>(tile)[k]);
  return bad;
}

std::int64_t quantize_blocks(const Context&, ConstMat w, std::int64_t groups, std::span<const std::int64_t> parts, const Quantization& q,
                             const ScaledBuffer& y) {
  FB_CHECK(groups > 0 && w.rows % groups == 0, "{} rows in {} groups", w.rows, groups);
  const std::int64_t rows = w.rows / groups;
  check_shapes(w, y, groups * row_tiles(rows, parts), tiles_of(w.cols));
  const std::int64_t whole[] = {rows};
  if (parts.empty()) parts = whole;
  std::int64_t bad = 0, tile = 0, begin = 0;
  for (std::int64_t g = 0; g < groups; ++g)
    for (const std::int64_t part : parts) {
      const std::int64_t end = begin + part;
      for (; begin < end; begin += std::min(kTile, end - begin), ++tile)
        for (std::int64_t k = 0; k < w.cols; k += kTile)
          bad += code_in(
              begin, std::min(begin + kTile, end), k, std::min(k + kTile, w.cols), q,
              [&](auto r, auto c) { return static_cast<float>(get(w, r, c)); }, y.codes, y.scales.row<float>(tile)[k / kTile]);
    }
  return bad;
}

void dequantize_rows(const Context&, const ScaledMat& x, Mat y) {
  for (std::int64_t t = 0; t < y.rows; ++t)
    for (std::int64_t k = 0; k < y.cols; ++k) put(y, t, k, static_cast<double>(element_of(x, t, k)));
}

void dequantize_blocks(const Context&, const WeightView& w, Mat y) {
  const std::int64_t tiles = row_tiles(w.rows, w.parts);
  for (std::int64_t g = 0; g < w.groups; ++g)
    for (std::int64_t n = 0; n < w.rows; ++n)
      for (std::int64_t k = 0; k < w.cols; ++k) {
        const float scale = w.scales.row<float>(g * tiles + row_tile_of(n, w.parts))[k / kTile];
        put(y, g * w.rows + n, k, static_cast<double>(static_cast<float>(get(w.group(g), n, k)) * scale));
      }
}

}  // namespace

void add_quantize(Table& table) {
  table.quantize_rows = quantize_rows;
  table.quantize_columns = quantize_columns;
  table.quantize_blocks = quantize_blocks;
  table.dequantize_rows = dequantize_rows;
  table.dequantize_blocks = dequantize_blocks;
}

}  // namespace finback::kernels::reference_kernels
