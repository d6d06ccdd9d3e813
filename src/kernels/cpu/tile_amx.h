// The innermost part of a product where the machine has matrix registers (AMX): 16 rows of 16 units of a times 16 units of 16 columns
// of b in one instruction.
//
// One instruction sums 16 units, the even and the odd halves of its pairs apart, and adds both to the sum; instructions begin at
// multiples of 16 units of a slice or run, whose beginnings depend on k alone. So an element still has one order, whatever its tile.
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "kernels/cpu/tile.h"

#if defined(__AMX_BF16__)
namespace {

constexpr int64_t kSquare = 16;  // rows, columns and units of a matrix register

// tmm0 … 3 hold sums, 4 and 5 rows of a, 6 and 7 columns of b; or, for one square of rows, 4 holds a and 5 … 7 take b in turn.
struct alignas(64) MatrixShapes {
  uint8_t palette, start, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

inline void use_shapes(int64_t low_rows, int64_t high_rows, int64_t units) {
  MatrixShapes s{};
  s.palette = 1;
  const auto shape = [&](int tmm, int64_t rows, int64_t bytes) {
    s.rows[tmm] = static_cast<uint8_t>(rows);
    s.row_bytes[tmm] = static_cast<uint16_t>(bytes);
  };
  const bool one = high_rows == 0;
  for (int t = 0; t < 4; ++t) shape(t, one || t < 2 ? low_rows : high_rows, 64);
  shape(4, low_rows, units * 4);
  if (one) shape(5, units, 64);
  else shape(5, high_rows, units * 4);
  shape(6, units, 64);
  shape(7, units, 64);
  asm volatile("ldtilecfg (%0)" ::"r"(&s) : "memory");
}

// What a thread's registers are shaped for: shaping them anew takes as long as two of their products. The registers are held for a whole
// task, since one that lets them go and takes them again waits for them to wake.
struct ShapesInUse {
  int64_t low_rows = 0, high_rows = 0, units = 0;
  void want(int64_t low, int64_t high, int64_t u) {
    if (low == low_rows && high == high_rows && u == units) return;
    use_shapes(low_rows = low, high_rows = high, units = u);
  }
  void release() {
    if (units > 0) asm volatile("tilerelease");
    units = 0;
  }
};

// The instructions by number of register. (GCC 12's own do not tell the compiler what memory they read and write.)
template <int kTmm>
inline void load_square(const void* from, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(kTmm) : "memory");
}
template <int kTmm>
inline void store_square(void* to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(kTmm) : "memory");
}
template <int kTmm>
inline void clear_square() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTmm));
}
template <int kSum, int kA, int kB>
inline void multiply_squares() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
}

// Operands lie as the registers take them, 1 KiB a square: of a, the squares of 16 rows one after the other along k; of b, strips of 16
// columns, unit after unit. `step` units at a time.
constexpr int64_t kSquareRow = 64, kSquareBytes = kSquare * kSquareRow, kSumRow = kPanel * 4;  // bytes

// sums[rows, columns · 16] = [sums +] a · b over `units` units for 17 … 32 rows.
inline void multiply_two(const TileInput& in, int64_t begin, int64_t units, int64_t step, int columns, bool from_zero, float* sums) {
  float* high = sums + kSquare * kPanel;
  for (int v = 0; v < columns; v += 2) {
    const int beside = v + 1 < columns ? v + 1 : v;  // an odd last one is computed twice
    float *low0 = sums + v * kSquare, *low1 = sums + beside * kSquare, *high0 = high + v * kSquare, *high1 = high + beside * kSquare;
    if (from_zero) {
      clear_square<0>(), clear_square<1>(), clear_square<2>(), clear_square<3>();
    } else {
      load_square<0>(low0, kSumRow), load_square<1>(low1, kSumRow), load_square<2>(high0, kSumRow), load_square<3>(high1, kSumRow);
    }
    const char *a = in.a + begin / kSquare * kSquareBytes, *b0 = reinterpret_cast<const char*>(in.b + v * in.b_strip + begin * kSquare),
               *b1 = reinterpret_cast<const char*>(in.b + beside * in.b_strip + begin * kSquare);
    for (int64_t u = 0; u < units; u += step) {
      load_square<4>(a, kSquareRow);
      load_square<6>(b0, kSquareRow);
      multiply_squares<0, 4, 6>();
      load_square<7>(b1, kSquareRow);
      multiply_squares<1, 4, 7>();
      load_square<5>(a + in.a_row, kSquareRow);
      multiply_squares<2, 5, 6>();
      multiply_squares<3, 5, 7>();
      a += kSquareBytes, b0 += kSquareBytes, b1 += kSquareBytes;
    }
    store_square<0>(low0, kSumRow), store_square<1>(low1, kSumRow), store_square<2>(high0, kSumRow), store_square<3>(high1, kSumRow);
  }
}

// The same for 1 … 16 rows.
inline void multiply_one(const TileInput& in, int64_t begin, int64_t units, int64_t step, int columns, bool from_zero, float* sums) {
  const int64_t at1 = columns > 1 ? 1 : 0, at2 = columns > 2 ? 2 : 0, at3 = columns > 3 ? 3 : 0;
  float *sums1 = sums + at1 * kSquare, *sums2 = sums + at2 * kSquare, *sums3 = sums + at3 * kSquare;
  if (from_zero) {
    clear_square<0>(), clear_square<1>(), clear_square<2>(), clear_square<3>();
  } else {
    load_square<0>(sums, kSumRow), load_square<1>(sums1, kSumRow), load_square<2>(sums2, kSumRow), load_square<3>(sums3, kSumRow);
  }
  const char* a = in.a + begin / kSquare * kSquareBytes;
  const uint32_t* b = in.b + begin * kSquare;
  for (int64_t u = 0; u < units; u += step, a += kSquareBytes, b += kSquare * kSquare) {
    load_square<4>(a, kSquareRow);
    load_square<5>(b, kSquareRow);
    multiply_squares<0, 4, 5>();
    if (columns < 2) continue;
    load_square<6>(b + at1 * in.b_strip, kSquareRow);
    multiply_squares<1, 4, 6>();
    if (columns < 3) continue;
    load_square<7>(b + at2 * in.b_strip, kSquareRow);
    multiply_squares<2, 4, 7>();
    if (columns < 4) continue;
    load_square<5>(b + at3 * in.b_strip, kSquareRow);
    multiply_squares<3, 4, 5>();
  }
  store_square<0>(sums, kSumRow);
  if (columns > 1) store_square<1>(sums1, kSumRow);
  if (columns > 2) store_square<2>(sums2, kSumRow);
  if (columns > 3) store_square<3>(sums3, kSumRow);
}

// As multiply_tile, for in.rows rows and as many columns as out.cols asks for.
template <bool kScaled>
void multiply_tile_amx(const TileInput& in, const TileOutput& out) {
  const int64_t low = min(in.rows, kSquare), high = in.rows - low;
  const int columns = static_cast<int>((out.cols + kSquare - 1) / kSquare);
  const auto multiply = high > 0 ? multiply_two : multiply_one;
  alignas(64) float run_sums[kScaled ? 2 * kSquare * kPanel : 1];
  bool first = out.first;
  if (kScaled && first) memset(out.carry, 0, static_cast<size_t>(in.rows) * kPanel * 4);
  for (int64_t run = 0, begin = 0; begin == 0 || begin < in.units; ++run) {
    const int64_t units = kScaled ? min(in.units - begin, kRunUnits<true>) : in.units, whole = units / kSquare * kSquare;
    float* sums = kScaled ? run_sums : out.carry;
    if (whole > 0 || units == 0) {
      in.shapes->want(low, high, kSquare);
      multiply(in, begin, whole, kSquare, columns, kScaled || first, sums);
    }
    if (whole < units) {
      in.shapes->want(low, high, units - whole);
      multiply(in, begin + whole, units - whole, units - whole, columns, whole == 0 && (kScaled || first), sums);
    }
    if constexpr (kScaled)
      for (int64_t i = 0; i < in.rows; ++i)
        for (int v = 0; v < columns; ++v) {
          const int64_t at = i * kPanel + v * kSquare;
          const vf scale = load(in.b_scale + run * kPanel + v * kSquare) * in.a_scale[run * kBlockRows + i];
          store(out.carry + at, load(out.carry + at) + load(run_sums + at) * scale);
        }
    first = false;
    begin += kScaled ? kRunUnits<true> : max(units, 1);
  }
  if (out.last) finish_tile(out, static_cast<int>(in.rows));
}

}  // namespace
#else
namespace {
struct ShapesInUse {
  void release() {}
};
}  // namespace
#endif
