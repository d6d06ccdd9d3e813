// The innermost part of a product: a tile of up to kTileRows × kPanel sums that stay in registers while k runs.
//
// Both operands are read as 32-bit units along k: one f32, or a pair of bf16 where the machine multiplies pairs (vdpbf16ps).
// An output element is one chain of multiply-adds over the units in ascending order, starting at zero, whatever tile or slice
// of k it is computed in: a slice stores its sums as f32 and the next one loads them, which changes no bit.
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "kernels/cpu/simd.h"

namespace {

// One register, how many make the width of a panel, and the rows of sums that the register file holds besides.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kVectors = 2, kTileRows = 14;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kVectors = 2, kTileRows = 6;
#else
constexpr int kBytes = 16, kVectors = 4, kTileRows = 2;
#endif
constexpr int kRegister = kBytes / 4;
constexpr int kPanel = kVectors * kRegister;  // a multiple of kLanes
static_assert(kPanel % kLanes == 0);
typedef float vr __attribute__((vector_size(kBytes)));
typedef float vr_unaligned __attribute__((vector_size(kBytes), aligned(4)));
typedef uint32_t vw __attribute__((vector_size(kBytes)));

#if defined(__AVX512BF16__)
constexpr bool kMultipliesPairs = true;
#else
constexpr bool kMultipliesPairs = false;
#endif

template <bool kPairs>
inline vr multiply_add(vr sum, vr a, vr b) {
#if defined(__AVX512BF16__)
  if constexpr (kPairs) return bits_as<vr>(_mm512_dpbf16_ps(bits_as<__m512>(sum), bits_as<__m512bh>(a), bits_as<__m512bh>(b)));
#endif
  return sum + a * b;
}

// Where the sums of a tile go.
struct TileOutput {
  float* carry;  // [rows, kPanel]: sums between slices of k
  bool first, last;
  // After the last slice: c = [addend +] sum.
  char* c;
  const char* addend;               // or null
  int64_t c_stride, addend_stride;  // bytes
  bool bf16;
  int cols;  // ≤ kPanel
};

template <class T>
inline void finish_row(const float* sum, T* c, const T* addend) {
  for (int j = 0; j < kPanel; j += kLanes) {
    vf s = load(sum + j);
    if constexpr (sizeof(T) == 2) {
      if (addend) s = load_bf16(addend + j) + s;
      store_bf16(c + j, s);
    } else {
      if (addend) s = load(addend + j) + s;
      store(c + j, s);
    }
  }
}

template <class T>
inline void finish_columns(const float* sum, char* c, const char* addend, int cols) {
  if (cols == kPanel) return finish_row(sum, reinterpret_cast<T*>(c), reinterpret_cast<const T*>(addend));
  T c_padded[kPanel], addend_padded[kPanel] = {};
  const size_t bytes = static_cast<size_t>(cols) * sizeof(T);
  if (addend) memcpy(addend_padded, addend, bytes);
  finish_row(sum, c_padded, addend ? addend_padded : nullptr);
  memcpy(c, c_padded, bytes);
}

// c = [addend +] carry. Not inlined: the sums of multiply_tile would not stay in registers across its calls of memcpy.
__attribute__((noinline)) void finish_tile(const TileOutput& out, int rows) {
  for (int i = 0; i < rows; ++i) {
    const float* sum = out.carry + i * kPanel;
    char* c = out.c + i * out.c_stride;
    const char* addend = out.addend ? out.addend + i * out.addend_stride : nullptr;
    if (out.bf16) finish_columns<uint16_t>(sum, c, addend, out.cols);
    else finish_columns<float>(sum, c, addend, out.cols);
  }
}

// a: row i, unit u stands at a + i · a_row + u · a_unit bytes; either contiguous along k (a_unit 4) or packed (a_row 4).
// b: a panel, unit u of column j at b[u · kPanel + j].
template <bool kPairs, bool kPacked, int kRows>
void multiply_tile(const char* a, int64_t a_row, const uint32_t* b, int64_t units, const TileOutput& out) {
  vr sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sum[i][v] = out.first ? vr{} : *reinterpret_cast<const vr_unaligned*>(out.carry + i * kPanel + v * kRegister);
  for (int64_t u = 0; u < units; ++u) {
    vr b_u[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b_u[v] = *reinterpret_cast<const vr_unaligned*>(b + v * kRegister);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      uint32_t unit;
      memcpy(&unit, a + (kPacked ? i * 4 : i * a_row), 4);
      const vr a_iu = bits_as<vr>(unit - vw{});
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add<kPairs>(sum[i][v], a_iu, b_u[v]);
    }
    a += kPacked ? kTileRows * 4 : 4;
    b += kPanel;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) *reinterpret_cast<vr_unaligned*>(out.carry + i * kPanel + v * kRegister) = sum[i][v];
  if (out.last) finish_tile(out, kRows);
}

using TileFunction = void (*)(const char* a, int64_t a_row, const uint32_t* b, int64_t units, const TileOutput& out);

// The function for a tile of `rows` rows, 1 … kTileRows.
template <bool kPairs, bool kPacked, int kRows = kTileRows>
TileFunction tile_function(int64_t rows) {
  if constexpr (kRows == 1) return multiply_tile<kPairs, kPacked, 1>;
  else return rows == kRows ? multiply_tile<kPairs, kPacked, kRows> : tile_function<kPairs, kPacked, kRows - 1>(rows);
}

}  // namespace
