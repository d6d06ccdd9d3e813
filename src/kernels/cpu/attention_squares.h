// Attention's forward products where the machine has matrix registers (AMX): 16 rows of 16 units of a times 16 units of 16 lanes of b in
// one instruction, which adds up the even and the odd halves of the pairs apart and then both to the sum. So an element has one order,
// whatever its neighbours; what pads it to whole squares is zero.
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace {

#if defined(__AMX_BF16__)
template <class T>
constexpr bool kSquares = kPairs<T>;
#else
template <class T>
constexpr bool kSquares = false;
#endif
constexpr int64_t kSquare = 16;
template <bool kUsed>
struct SquareRegisters {};

#if defined(__AMX_BF16__)

// The registers as whole squares, while this lives: one task. tmm0 … 3 hold sums, 4 and 5 rows of a, 6 and 7 lanes of b.
template <>
struct SquareRegisters<true> {
  SquareRegisters() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    asm volatile("ldtilecfg (%0)" ::"r"(&shapes) : "memory");
  }
  ~SquareRegisters() { asm volatile("tilerelease"); }
  SquareRegisters(const SquareRegisters&) = delete;
};

// By number of register. (GCC 12's own do not tell the compiler what memory they read and write.)
template <int kTmm>
inline void load_square(const void* from, int64_t row) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row * 4), "i"(kTmm) : "memory");
}
template <int kTmm>
inline void store_square(void* to, int64_t row) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row * 4), "i"(kTmm) : "memory");
}
template <int kSum, int kA, int kB>
inline void multiply_squares() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
}

// c[m][n] = [c +] Σ_k a[m · a_row + k] · b[k · b_k + n] for whole squares of rows, lanes and units. Two by two sums at a time.

inline void square_product(int64_t rows, int64_t lanes, int64_t units, const Unit* a, int64_t a_row, const Unit* b, int64_t b_k, float* c,
                           int64_t c_row, Start start) {
  for (int64_t n = 0; n < lanes; n += 2 * kSquare)
    for (int64_t m = 0; m < rows; m += 2 * kSquare) {
      const int64_t lower = m + kSquare < rows ? kSquare : 0, right = n + kSquare < lanes ? kSquare : 0;
      float *c0 = c + m * c_row + n, *c1 = c0 + right, *c2 = c0 + lower * c_row, *c3 = c2 + right;
      if (start == Start::zero) {
        asm volatile("tilezero %tmm0; tilezero %tmm1; tilezero %tmm2; tilezero %tmm3");
      } else {
        load_square<0>(c0, c_row), load_square<1>(c1, c_row), load_square<2>(c2, c_row), load_square<3>(c3, c_row);
      }
      const Unit *upper_a = a + m * a_row, *lower_a = upper_a + lower * a_row, *left_b = b + n, *right_b = left_b + right;
      for (int64_t k = 0; k < units; k += kSquare) {
        load_square<4>(upper_a + k, a_row);
        load_square<6>(left_b + k * b_k, b_k);
        multiply_squares<0, 4, 6>();
        if (right > 0) {
          load_square<7>(right_b + k * b_k, b_k);
          multiply_squares<1, 4, 7>();
        }
        if (lower == 0) continue;
        load_square<5>(lower_a + k, a_row);
        multiply_squares<2, 5, 6>();
        if (right > 0) multiply_squares<3, 5, 7>();
      }
      store_square<0>(c0, c_row);
      if (right > 0) store_square<1>(c1, c_row);
      if (lower > 0) store_square<2>(c2, c_row);
      if (lower > 0 && right > 0) store_square<3>(c3, c_row);
    }
}

#else
inline void square_product(int64_t, int64_t, int64_t, const Unit*, int64_t, const Unit*, int64_t, float*, int64_t, Start) {}
#endif

}  // namespace
