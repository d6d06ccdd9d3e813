// E5M6 codes of 1×128 tiles, as in kernels/reference/e5m6.cpp, bit for bit.
#include "kernels/cpu/encode.h"
#include "kernels/cpu/entries.h"
#include "kernels/cpu/pairs.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scales.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

// Codes of n <= 128 elements, from an even column on.
template <class T>
inline void code_run(const T* x, int64_t n, vf inverse, bool finite, uint8_t* codes) {
  for (int64_t i = 0; i < n; i += kPairElements) {
    const Pairs p = load_pairs(x + i, n - i);
    store_triples(codes + i / 2 * 3, codes_of<e5m6>(p.even, inverse, finite) | codes_of<e5m6>(p.odd, inverse, finite) << 12,
                  (n - i + 1) / 2 * 3);
  }
}

// A row; returns how many tiles hold NaN or infinity.
template <class T>
int64_t code_row(const T* x, int64_t n, uint8_t* codes, float* scales) {
  int64_t bad = 0;
  for (int64_t strip = 0; strip < n; strip += kLanes * kTile) {  // 16 tiles, whose scales are one vector
    uint32_t amax[kLanes] = {};
    bool finite[kLanes];
    const int64_t left = n - strip, tiles = left < kLanes * kTile ? tiles_of(left) : kLanes;
    const auto width = [&](int64_t tile) { return left - tile * kTile < kTile ? left - tile * kTile : kTile; };
    for (int64_t t = 0; t < tiles; ++t) amax[t] = largest_of_run(x + strip + t * kTile, width(t), finite[t]);
    const Scales s = scales_of(load(reinterpret_cast<const float*>(amax)), e5m6::kLargest, /*power_of_two=*/true);
    float inverse[kLanes];
    store(inverse, s.inverse);
    store(scales + strip / kTile, s.scale, tiles);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t k = strip + t * kTile, next = k + tiles * kTile;
      ask_for(x + next, kTile);
      ask_for_output(codes + next / 2 * 3, kTile / 2 * 3);
      code_run(x + k, width(t), splat(inverse[t]), finite[t], codes + k / 2 * 3);
      bad += !finite[t];
    }
  }
  return bad;
}

template <class T>
int64_t encode_as(const Context& ctx, ConstMat x, const ScaledBuffer& y) {
  Count bad;
  for_ranges(ctx.team, split_rows(x.rows, x.cols), [&](Range rows, int) {
    for (int64_t r = rows.begin; r < rows.end; ++r) bad.add(code_row(x.row<T>(r), x.cols, y.codes.row<uint8_t>(r), y.scales.row<float>(r)));
  });
  return bad.total();
}

int64_t encode_e5m6(const Context& ctx, ConstMat x, const ScaledBuffer& y) {
  if (x.dtype == DType::bf16) return encode_as<uint16_t>(ctx, x, y);
  if (x.dtype == DType::f32) return encode_as<float>(ctx, x, y);
  return reference().encode_e5m6(ctx, x, y);
}

template <class T>
void decode_as(const Context& ctx, const ScaledMat& x, Mat y) {
  for_ranges(ctx.team, split_rows(y.rows, y.cols), [&](Range rows, int) {
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t i = 0; i < y.cols; i += kPairElements) {
        const vu both = load_triples(x.codes.row<uint8_t>(r) + i / 2 * 3, (y.cols - i + 1) / 2 * 3);
        const float scale = x.scales.row<float>(r)[i / kTile];
        store_pairs(y.row<T>(r) + i, {numbers_of<e5m6>(both & 0xfffu) * scale, numbers_of<e5m6>(both >> 12) * scale}, y.cols - i);
      }
  });
}

void decode_e5m6(const Context& ctx, const ScaledMat& x, Mat y) {
  if (y.dtype == DType::bf16) decode_as<uint16_t>(ctx, x, y);
  else if (y.dtype == DType::f32) decode_as<float>(ctx, x, y);
  else reference().decode_e5m6(ctx, x, y);
}

}  // namespace

void add_e5m6(Table& table) {
  table.encode_e5m6 = encode_e5m6;
  table.decode_e5m6 = decode_e5m6;
}

}  // namespace finback::kernels::FB_ISA
