// The innermost part of a product where the machine has matrix registers (AMX): 16 rows of 16 units of a times 16 units of 16 columns
// of b in one instruction.
//
// One instruction sums 16 units, the even and the odd halves of its pairs apart, and adds both to the sum; instructions begin at
// multiples of 16 units of a slice or run, whose beginnings depend on k alone. So an element still has one order, whatever its tile.
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "kernels/cpu/codes.h"
#include "kernels/cpu/matrix_registers.h"
#include "kernels/cpu/tile.h"

#if defined(__AMX_BF16__)
namespace {

// What a thread's registers are shaped for: shaping them anew takes as long as two of their products. The registers are held for a whole
// task, since one that lets them go and takes them again waits for them to wake.
struct ShapesInUse {
  int64_t low_rows = 0, high_rows = 0, units = 0;
  void want(int64_t low, int64_t high, int64_t u) {
    if (low == low_rows && high == high_rows && u == units) return;
    use_shapes(low_rows = low, high_rows = high, units = u);
  }
  void release() {
    if (units > 0) release_registers();
    units = 0;
  }
};

// a is read row by row, where it stands; b comes in strips of 16 columns, unit after unit.
constexpr int64_t kSquareRow = 64, kSumRow = kPanel * 4;  // bytes

// Brings the place of a tile's sums nearer while it multiplies, a few rows at each of `steps`. All at once they would occupy
// the buffers through which the operands come.
class OutputFetch {
 public:
  OutputFetch(const TileOutput& out, int64_t rows, int64_t steps)
      : out_(out),
        rows_(out.last ? rows : 0),
        rows_a_step_(static_cast<uint32_t>(rows + steps - 1) / static_cast<uint32_t>(steps)),
        bytes_(out.cols * (out.bf16 ? 2 : 4)) {}
  void step() {
    for (const int64_t end = min(rows_, row_ + rows_a_step_); row_ < end; ++row_)
      for (int64_t at = 0; at < bytes_; at += 64) {
        __builtin_prefetch(out_.c + row_ * out_.c_stride + at, 1);
        if (out_.addend && out_.addend != out_.c) __builtin_prefetch(out_.addend + row_ * out_.addend_stride + at);
      }
  }

 private:
  const TileOutput& out_;
  int64_t rows_, rows_a_step_, bytes_, row_ = 0;
};

// sums[rows, 32] = [sums +] a · b over `units` units, `step` at a time, for 17 … 32 rows; beside() is done with every step.
template <class Beside>
inline void multiply_two(const TileInput& in, int64_t begin, int64_t units, int64_t step, bool from_zero, float* sums, Beside beside) {
  float *sums1 = sums + kSquare, *high = sums + kSquare * kPanel, *high1 = high + kSquare;
  if (from_zero) {
    clear_square<0>(), clear_square<1>(), clear_square<2>(), clear_square<3>();
  } else {
    load_square<0>(sums, kSumRow), load_square<1>(sums1, kSumRow), load_square<2>(high, kSumRow), load_square<3>(high1, kSumRow);
  }
  const int64_t a_row = in.a_row, b_strip = in.b_strip;
  const char *a = in.a + begin * 4, *high_a = a + kSquare * a_row;
  const uint32_t* b = in.b + begin * kSquare;
  for (int64_t u = 0; u < units; u += step, a += kSquareRow, high_a += kSquareRow, b += kSquare * kSquare) {
    load_square<6>(b, kSquareRow);
    load_square<7>(b + b_strip, kSquareRow);
    load_square<4>(a, a_row);
    multiply_squares<0, 4, 6>();
    multiply_squares<1, 4, 7>();
    load_square<5>(high_a, a_row);
    multiply_squares<2, 5, 6>();
    multiply_squares<3, 5, 7>();
    beside();
  }
  store_square<0>(sums, kSumRow), store_square<1>(sums1, kSumRow), store_square<2>(high, kSumRow), store_square<3>(high1, kSumRow);
}

// The same for 1 … 16 rows.
template <class Beside>
inline void multiply_one(const TileInput& in, int64_t begin, int64_t units, int64_t step, bool from_zero, float* sums, Beside beside) {
  float* sums1 = sums + kSquare;
  if (from_zero) {
    clear_square<0>(), clear_square<1>();
  } else {
    load_square<0>(sums, kSumRow), load_square<1>(sums1, kSumRow);
  }
  const char* a = in.a + begin * 4;
  const uint32_t* b = in.b + begin * kSquare;
  for (int64_t u = 0; u < units; u += step, a += kSquareRow, b += kSquare * kSquare) {
    load_square<4>(a, in.a_row);
    load_square<6>(b, kSquareRow);
    multiply_squares<0, 4, 6>();
    load_square<7>(b + in.b_strip, kSquareRow);
    multiply_squares<1, 4, 7>();
    beside();
  }
  store_square<0>(sums, kSumRow), store_square<1>(sums1, kSumRow);
}

template <class Beside>
inline void multiply_rows(const TileInput& in, int64_t begin, int64_t units, int64_t step, bool from_zero, float* sums, Beside beside) {
  const int64_t low = min(in.rows, kSquare), high = in.rows - low;
  in.shapes->want(low, high, step);
  if (high > 0) multiply_two(in, begin, units, step, from_zero, sums, beside);
  else multiply_one(in, begin, units, step, from_zero, sums, beside);
}

// As multiply_tile, for in.rows rows; always all columns of the panel.
template <bool kScaled>
void multiply_tile_amx(const TileInput& in, const TileOutput& out) {
  OutputFetch fetch(out, in.rows, max(1, in.units / kSquare));
  const auto beside = [&] { fetch.step(); };
  const int64_t whole = in.units / kSquare * kSquare;
  if (whole > 0 || in.units == 0) multiply_rows(in, 0, whole, kSquare, out.first, out.carry, beside);
  if (whole < in.units) multiply_rows(in, whole, in.units - whole, in.units - whole, whole == 0 && out.first, out.carry, beside);
  if (out.last) finish_tile(out, static_cast<int>(in.rows));
}

// With scales, whose runs are whole squares. The sums of two runs lie apart, so that one is scaled and added while the next begins.
template <>
[[maybe_unused]] void multiply_tile_amx<true>(const TileInput& in, const TileOutput& out) {
  alignas(64) float run_sums[2][2 * kSquare * kPanel];
  alignas(64) uint32_t run_b[kRunUnits<true> * kPanel];
  OutputFetch fetch(out, in.rows, max(1, in.units / kSquare));
  for (int64_t run = 0, begin = 0; begin < in.units; ++run, begin += kRunUnits<true>) {
    const int64_t units = min(in.units - begin, kRunUnits<true>);
    float* sums = run_sums[run % 2];
    if (in.b_codes[0]) {
      TileInput decoded = in;
      decoded.b = run_b;
      decoded.b_strip = kRunUnits<true> * kSquare;
      decoded.a = in.a + begin * 4;
      for (int strip = 0; strip < 2; ++strip)
        read_strip<true, kSquare>(in.b_codes[strip] + begin * 2 * kSquare, units, in.b_dtype, run_b + strip * decoded.b_strip);
      multiply_rows(decoded, 0, units, kSquare, /*from_zero=*/true, sums, [&] { fetch.step(); });
    } else {
      multiply_rows(in, begin, units, kSquare, /*from_zero=*/true, sums, [&] { fetch.step(); });
    }
    const vf b_scale[2] = {load(in.b_scale + run * kPanel), load(in.b_scale + run * kPanel + kLanes)};
    const float* a_scale = in.a_scale + run * kBlockRows;
    float* total = out.carry;
    // Nothing yet: zeros are added to, so that one expression adds every run.
    const __mmask16 carried = out.first && run == 0 ? 0 : 0xffff;
    const auto before = [&](const float* at) { return bits_as<vf>(_mm512_maskz_loadu_ps(carried, at)); };
    for (int64_t i = 0; i < in.rows; ++i, total += kPanel, sums += kPanel) {
      store(total, before(total) + load(sums) * (b_scale[0] * a_scale[i]));
      store(total + kLanes, before(total + kLanes) + load(sums + kLanes) * (b_scale[1] * a_scale[i]));
    }
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
