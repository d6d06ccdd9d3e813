// LogFMT codes of 1×128 tiles, as in kernels/reference/logfmt.cpp, bit for bit: the operations of numerics/logfmt.h on vectors. This
// file is compiled without fused multiply-adds (isa.cmake), which would round otherwise on some machines.
#include "numerics/logfmt.h"
#include "kernels/cpu/encode.h"
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scales.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

using numerics::LogGrid;

inline vf to_float(vi x) { return __builtin_convertvector(x, vf); }
inline vi to_int(vf x) { return __builtin_convertvector(x, vi); }

inline vf log2_by_series(vf x) {
  const vu bits = bits_as<vu>(x);
  const vi exponent = bits_as<vi>(bits - numerics::kSqrtHalf) >> 23;
  const vf m = bits_as<vf>(bits - (bits_as<vu>(exponent) << 23));
  const vf s = (m - 1) / (m + 1), z = s * s;
  vf sum = splat(numerics::kLog2Series[4]);
  for (int k = 3; k >= 0; --k) sum = sum * z + numerics::kLog2Series[k];
  return to_float(exponent) + sum * s;
}

inline vf power_by_series(vf t) {
  const vf n = (t + numerics::kNearest) - numerics::kNearest, r = t - n;
  vf sum = splat(numerics::power_coefficient(numerics::kPowerTerms - 1));
#pragma GCC unroll 8
  for (int k = numerics::kPowerTerms - 2; k >= 0; --k) sum = sum * r + numerics::power_coefficient(k);
  const vi exponent = to_int(n), half = exponent >> 1;
  const vf power = sum * bits_as<vf>((half + 127) << 23) * bits_as<vf>((exponent - half + 127) << 23);
  return vmin(power, splat(__FLT_MAX__));
}

// Grids are the scalar ones; their levels and the nearest of them for 16 numbers.
inline vf levels(const LogGrid& grid, vi k) { return power_by_series(grid.least + grid.step * to_float(k - 1)); }

inline vi nearest_levels(const LogGrid& grid, vf magnitude) {
  const vf position = (log2_by_series(magnitude) - grid.least) * grid.inverse_step, top = splat(static_cast<float>(grid.levels));
  vi below = position < 0 ? vi{} : to_int(vmin(position, top)) + 1;
  below = below > grid.levels - 1 ? vi{} + (grid.levels - 1) : below;
  const vf low = below == 0 ? vf{} : levels(grid, below) * 0.5f, tie = low + levels(grid, below + 1) * 0.5f;
  const vi up = (magnitude > tie) | ((magnitude == tie) & ((below & 1) == 1));
  const vi nearest = below - up;
  return magnitude == 0 ? vi{} : nearest;
}

// |x|, subnormal numbers as 0.
inline vf normal_magnitude(vf x) {
  const vu m = magnitude_bits(x);
  return bits_as<vf>(m < 0x00800000u ? vu{} : m);
}

// Codes of 10 bits: four in 40 bits.
inline void pack_codes(const uint16_t* codes, int64_t n, uint8_t* to) {
  for (int64_t i = 0; i < n; i += 4, to += 5) {
    uint64_t four = 0;
    for (int64_t j = 0; j < 4 && i + j < n; ++j) four |= uint64_t{codes[i + j]} << (10 * j);
    memcpy(to, &four, 5);
  }
}
inline void unpack_codes(const uint8_t* from, int64_t n, uint16_t* codes) {
  for (int64_t i = 0; i < n; i += 4, from += 5) {
    uint64_t four = 0;
    memcpy(&four, from, 5);
    for (int64_t j = 0; j < 4; ++j) codes[i + j] = static_cast<uint16_t>(four >> (10 * j) & 0x3ff);
  }
}

// One tile of n elements; whether all are finite.
template <class T>
inline bool code_tile(const T* x, int64_t n, int bits, uint8_t* codes, float* range) {
  vf smallest = splat(__builtin_inff()), largest = {};
  vi finite = vi{} - 1;
  for (int64_t i = 0; i < n; i += kLanes) {
    const vf m = normal_magnitude(load(x + i, n - i));  // lanes that are not there are 0
    finite &= bits_as<vu>(m) < kInfinity;
    smallest = vmin(m > 0 ? m : smallest, smallest);
    largest = vmax(m, largest);
  }
  const bool all_finite = horizontal(finite, [](vi a, vi b) { return a & b; }) != 0;
  LogGrid grid(__builtin_nanf(""), 0, bits);
  if (all_finite) {
    const float most = horizontal_max(largest), least = horizontal(smallest, [](vf a, vf b) { return vmin(a, b); });
    grid = most == 0 ? LogGrid(0, 0, bits) : LogGrid::spanning(least, most, bits);
  }
  range[0] = grid.least;
  range[1] = grid.step;
  uint16_t wide[kTile];
  for (int64_t i = 0; i < n; i += kLanes) {
    const vf v = load(x + i, n - i), m = normal_magnitude(v);
    const vi level = all_finite ? nearest_levels(grid, m) : (m == 0 ? vi{} : vi{} + 1);
    const vu code = bits_as<vu>(level) | (bits_as<vu>(v) >> 31) << (bits - 1);
    if (bits == 8) {
      store_bytes(codes + i, code, n - i);
    } else {
      const vh narrow = __builtin_convertvector(code, vh);
      memcpy(wide + i, &narrow, sizeof narrow);
    }
  }
  if (bits == 10) pack_codes(wide, n, codes);
  return all_finite;
}

template <class T>
int64_t encode_as(const Context& ctx, ConstMat x, int bits, const ScaledBuffer& y) {
  Count bad;
  for_ranges(ctx.team, split_rows(x.rows, x.cols), [&](Range rows, int) {
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t k = 0; k < x.cols; k += kTile)
        bad.add(!code_tile(x.row<T>(r) + k, x.cols - k < kTile ? x.cols - k : kTile, bits, y.codes.row<uint8_t>(r) + log_bytes(k, bits),
                           y.scales.row<float>(r) + k / kTile * 2));
  });
  return bad.total();
}

int64_t encode_logfmt(const Context& ctx, ConstMat x, int bits, const ScaledBuffer& y) {
  if (x.dtype == DType::bf16) return encode_as<uint16_t>(ctx, x, bits, y);
  if (x.dtype == DType::f32) return encode_as<float>(ctx, x, bits, y);
  return reference().encode_logfmt(ctx, x, bits, y);
}

template <class T>
inline void decode_tile(const uint8_t* codes, const LogGrid& grid, int64_t n, int bits, T* y) {
  const bool empty = !(grid.least == grid.least);
  const uint32_t sign = 1u << (bits - 1);
  uint16_t wide[kTile] = {};
  if (bits == 10) unpack_codes(codes, n, wide);
  for (int64_t i = 0; i < n; i += kLanes) {
    vu code;
    if (bits == 8) {
      code = load_bytes(codes + i, n - i);
    } else {
      vh narrow;
      memcpy(&narrow, wide + i, sizeof narrow);
      code = __builtin_convertvector(narrow, vu);
    }
    const vi level = bits_as<vi>(code & (sign - 1));
    const vf magnitude = empty ? splat(grid.least) : levels(grid, level);
    const vf m = level == 0 ? vf{} : magnitude;
    store(y + i, bits_as<vf>(bits_as<vu>(m) | (code >> (bits - 1)) << 31), n - i);
  }
}

template <class T>
void decode_as(const Context& ctx, const ScaledMat& x, int bits, Mat y) {
  for_ranges(ctx.team, split_rows(y.rows, y.cols), [&](Range rows, int) {
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t k = 0; k < y.cols; k += kTile) {
        const float* range = x.scales.row<float>(r) + k / kTile * 2;
        decode_tile(x.codes.row<uint8_t>(r) + log_bytes(k, bits), LogGrid(range[0], range[1], bits),
                    y.cols - k < kTile ? y.cols - k : kTile, bits, y.row<T>(r) + k);
      }
  });
}

void decode_logfmt(const Context& ctx, const ScaledMat& x, int bits, Mat y) {
  if (y.dtype == DType::bf16) decode_as<uint16_t>(ctx, x, bits, y);
  else if (y.dtype == DType::f32) decode_as<float>(ctx, x, bits, y);
  else reference().decode_logfmt(ctx, x, bits, y);
}

}  // namespace

void add_logfmt(Table& table) {
  table.encode_logfmt = encode_logfmt;
  table.decode_logfmt = decode_logfmt;
}

}  // namespace finback::kernels::FB_ISA
