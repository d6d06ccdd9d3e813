// LogFMT codes of 1×128 tiles, element by element.
#include "numerics/logfmt.h"
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace finback::kernels::reference_kernels {
namespace {

using numerics::LogGrid;

// Code k of a row: a byte, or ten bits of a 40-bit number of four.
void put_code(std::uint8_t* row, std::int64_t k, int bits, std::uint32_t code) {
  if (bits == 8) {
    row[k] = static_cast<std::uint8_t>(code);
    return;
  }
  std::uint8_t* five = row + k / 4 * 5;
  if (k % 4 == 0) std::fill(five, five + 5, std::uint8_t{0});
  const std::uint32_t shifted = code << (k % 4 * 2);
  five[k % 4] = static_cast<std::uint8_t>(five[k % 4] | shifted);
  five[k % 4 + 1] = static_cast<std::uint8_t>(shifted >> 8);
}
std::uint32_t code_at(const std::uint8_t* row, std::int64_t k, int bits) {
  if (bits == 8) return row[k];
  const std::uint8_t* five = row + k / 4 * 5;
  return (five[k % 4] | static_cast<std::uint32_t>(five[k % 4 + 1]) << 8) >> (k % 4 * 2) & 0x3ff;
}

void check_shapes(std::int64_t rows, std::int64_t cols, int bits, const ScaledMat& codes) {
  FB_CHECK(bits == 8 || bits == 10, "{} bits", bits);
  FB_CHECK(codes.codes.rows == rows && codes.codes.cols == log_bytes(cols, bits), "codes {} x {}", codes.codes.rows, codes.codes.cols);
  FB_CHECK(codes.scales.rows == rows && codes.scales.cols == 2 * tiles_of(cols), "scales {} x {}", codes.scales.rows, codes.scales.cols);
}

std::int64_t encode_logfmt(const Context&, ConstMat x, int bits, const ScaledBuffer& y) {
  check_shapes(x.rows, x.cols, bits, y);
  const std::uint32_t sign = 1u << (bits - 1);
  std::int64_t bad = 0;
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t begin = 0; begin < x.cols; begin += kTile) {
      const std::int64_t end = std::min(begin + kTile, x.cols);
      const auto magnitude = [&](std::int64_t k) {
        const float m = std::abs(static_cast<float>(get(x, t, k)));
        return m < 0x1p-126f ? 0.0f : m;  // NaN stays
      };
      float smallest = std::numeric_limits<float>::infinity(), largest = 0;
      bool finite = true;
      for (std::int64_t k = begin; k < end; ++k) {
        const float m = magnitude(k);
        finite = finite && numerics::is_finite(m);
        if (m > 0) smallest = std::min(smallest, m);
        largest = std::max(largest, m);
      }
      bad += !finite;
      const LogGrid grid = !finite        ? LogGrid(std::numeric_limits<float>::quiet_NaN(), 0, bits)
                           : largest == 0 ? LogGrid(0, 0, bits)
                                          : LogGrid::spanning(smallest, largest, bits);
      float* range = y.scales.row<float>(t) + begin / kTile * 2;
      range[0] = grid.least, range[1] = grid.step;
      for (std::int64_t k = begin; k < end; ++k) {
        const int code = finite ? grid.nearest(magnitude(k)) : magnitude(k) == 0 ? 0 : 1;
        put_code(y.codes.row<std::uint8_t>(t), k, bits, static_cast<std::uint32_t>(code) | (std::signbit(get(x, t, k)) ? sign : 0));
      }
    }
  return bad;
}

void decode_logfmt(const Context&, const ScaledMat& x, int bits, Mat y) {
  check_shapes(y.rows, y.cols, bits, x);
  const std::uint32_t sign = 1u << (bits - 1);
  for (std::int64_t t = 0; t < y.rows; ++t)
    for (std::int64_t k = 0; k < y.cols; ++k) {
      const float* range = x.scales.row<float>(t) + k / kTile * 2;
      const std::uint32_t code = code_at(x.codes.row<std::uint8_t>(t), k, bits);
      const int level = static_cast<int>(code & (sign - 1));
      const float magnitude = level == 0 ? 0 : LogGrid(range[0], range[1], bits).level(level);
      put(y, t, k, static_cast<double>(code & sign ? -magnitude : magnitude));
    }
}

}  // namespace

void add_logfmt(Table& table) {
  table.encode_logfmt = encode_logfmt;
  table.decode_logfmt = decode_logfmt;
}

}  // namespace finback::kernels::reference_kernels
