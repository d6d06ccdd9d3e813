// The innermost part of a product: a tile of up to kTileRows × kPanel sums that stay in registers while k runs.
//
// Both operands are read as 32-bit units along k: one f32, or a pair of bf16 where the machine multiplies pairs (vdpbf16ps).
// An output element is one chain of multiply-adds over the units in ascending order, starting at zero, whatever tile or slice
// of k it is computed in: a slice stores its sums as f32 and the next one loads them, which changes no bit.
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "kernels/cpu/simd.h"

namespace {

constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// One register, how many make the width of a panel, and the rows of sums that the register file holds besides. Wide and low tiles
// reach more than narrow and high ones (on Zen 4: 6 × 64 and 9 × 48 99 % of the ceiling, 14 × 32 96 %), and they bear rows of a
// that lie a power of two apart and so fall into the same few lines of the cache.
//
// Where the machine has matrix registers, they multiply pairs, and this tile is for none (tile_amx.h): a table with them leaves f32 to
// the one before it.
#if defined(__AMX_BF16__)
constexpr bool kMatrices = true;
constexpr int kBytes = 64, kVectors = 2, kTileRows = 32, kBlockTiles = 8, kStrip = 16;
#elif defined(__AVX512F__)
constexpr bool kMatrices = false;
constexpr int kBytes = 64, kVectors = 4, kTileRows = 6, kBlockTiles = 16;
#elif defined(__AVX2__)
constexpr bool kMatrices = false;
constexpr int kBytes = 32, kVectors = 2, kTileRows = 6, kBlockTiles = 16;
#else
constexpr bool kMatrices = false;
constexpr int kBytes = 16, kVectors = 4, kTileRows = 2, kBlockTiles = 16;
#endif
constexpr int kRegister = kBytes / 4;
constexpr int kPanel = kVectors * kRegister;         // a multiple of kLanes
constexpr int kBlockRows = kBlockTiles * kTileRows;  // a block: the tiles that share what is packed of a
#if !defined(__AMX_BF16__)
constexpr int kStrip = kPanel;  // columns of a panel that lie side by side
#endif
static_assert(kPanel % kLanes == 0 && kBlockRows % kRegister == 0);
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
#pragma GCC unroll 4
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
inline void finish_rows(const TileOutput& out, int rows) {
  for (int i = 0; i < rows; ++i) {
    const float* sum = out.carry + i * kPanel;
    T* c = reinterpret_cast<T*>(out.c + i * out.c_stride);
    const T* addend = out.addend ? reinterpret_cast<const T*>(out.addend + i * out.addend_stride) : nullptr;
    if (out.cols == kPanel) {
      finish_row(sum, c, addend);
    } else {
      T c_padded[kPanel], addend_padded[kPanel] = {};
      const size_t bytes = static_cast<size_t>(out.cols) * sizeof(T);
      if (addend) memcpy(addend_padded, addend, bytes);
      finish_row(sum, c_padded, addend ? addend_padded : nullptr);
      memcpy(c, c_padded, bytes);
    }
  }
}

// c = [addend +] carry. Not inlined: the sums of multiply_tile would not stay in registers across its calls of memcpy.
__attribute__((noinline)) void finish_tile(const TileOutput& out, int rows) {
  if (out.bf16) finish_rows<uint16_t>(out, rows);
  else finish_rows<float>(out, rows);
}

// What a later tile will read, fetched while this one multiplies: every kFetchUnits units, kFetchRows lines of the cache, `stride`
// bytes apart and `step` bytes on from the ones before, into the second cache, as the first is full of what is multiplied. A stride of 0:
// nothing is fetched, and the loop is the shorter for it.
constexpr int kFetchRows = 8, kFetchUnits = 16;
struct Fetch {
  const char* next;
  int64_t stride, step;
};

// Products of codes with scales: the units of one run, a tile of 128 codes along k, are summed from zero; the sum times the scales
// of its row and column goes to the carry. Runs begin at multiples of kRunUnits; pairs leave the second half unused elsewhere.
template <bool kPairs>
constexpr int64_t kRunUnits = kPairs ? 64 : 128;

// a: row i, unit u stands at a + i · a_row + u · 4 bytes; packed, at a + i · 4 + u · kTileRows · 4. For matrix registers, squares of 16
// rows and 16 units: their rows a_row apart, squares a_units apart along k and a_rows apart across. b: a panel, unit u of column j at b[u ·
// kPanel + j]; for matrix registers, at b[j / 16 · b_strip + u · 16 + j % 16]. Scaled products alone: scales of run r, row i at a_scale[r ·
// kBlockRows + i], column j at b_scale[r · kPanel + j].
struct TileInput {
  const char* a;
  int64_t a_row, rows;
  const uint32_t* b;
  int64_t b_strip, units;
  Fetch fetch;
  const float *a_scale, *b_scale;
  struct ShapesInUse* shapes;  // of matrix registers
  // For matrix registers: packed codes of the panel's two strips, which are decoded run by run as they are met, instead of b; or null.
  const uint8_t* b_codes[2];
  finback::core::DType b_dtype;
};

// Only the first kColumns registers of the panel's width are of use.
template <bool kPairs, bool kPackedA, bool kScaled, int kRows, int kColumns>
void multiply_tile(const TileInput& in, const TileOutput& out) {
  const char* a = in.a;
  const int64_t a_row = in.a_row;
  const uint32_t* b = in.b;
  Fetch fetch = in.fetch;
  const bool first = out.first;
  // So that the one expression below adds every run: another one for the first, and the compiler fuses one and rounds the other.
  if (kScaled && first) memset(out.carry, 0, static_cast<size_t>(kRows) * kPanel * 4);
  for (int64_t run = 0, left = in.units;; ++run) {
    const int64_t run_units = kScaled ? min(left, kRunUnits<kPairs>) : left;
    vr sum[kRows][kColumns];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kColumns; ++v)
        sum[i][v] = kScaled || first ? vr{} : *reinterpret_cast<const vr_unaligned*>(out.carry + i * kPanel + v * kRegister);
    const auto multiply_units = [&](int64_t units) __attribute__((always_inline)) {
      for (; units > 0; --units) {
        vr b_u[kColumns];
#pragma GCC unroll 4
        for (int v = 0; v < kColumns; ++v) b_u[v] = *reinterpret_cast<const vr_unaligned*>(b + v * kRegister);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          uint32_t unit;
          memcpy(&unit, a + (kPackedA ? i * 4 : i * a_row), 4);
          const vr a_iu = bits_as<vr>(unit - vw{});
#pragma GCC unroll 4
          for (int v = 0; v < kColumns; ++v) sum[i][v] = multiply_add<kPairs>(sum[i][v], a_iu, b_u[v]);
        }
        a += kPackedA ? kTileRows * 4 : 4;
        b += kPanel;
      }
    };
    if (kScaled || fetch.stride == 0) {
      multiply_units(run_units);
    } else {
      for (int64_t part = run_units; part > 0; part -= kFetchUnits) {
#pragma GCC unroll 8
        for (int i = 0; i < kFetchRows; ++i) __builtin_prefetch(fetch.next + i * fetch.stride, 0, 2);
        fetch.next += fetch.step;
        multiply_units(min(part, kFetchUnits));
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kColumns; ++v) {
        auto& carry = *reinterpret_cast<vr_unaligned*>(out.carry + i * kPanel + v * kRegister);
        if constexpr (kScaled) {
          const vr scale =
              *reinterpret_cast<const vr_unaligned*>(in.b_scale + run * kPanel + v * kRegister) * in.a_scale[run * kBlockRows + i];
          carry = carry + sum[i][v] * scale;
        } else {
          carry = sum[i][v];
        }
      }
    left -= run_units;
    if (left <= 0) break;
  }
  if (out.last) finish_tile(out, kRows);
}

using TileFunction = void (*)(const TileInput& in, const TileOutput& out);

}  // namespace
