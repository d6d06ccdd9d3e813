// Attention's products where the machine has matrix registers (AMX): 16 rows of 16 units of a times 16 units of 16 lanes of b in
// one instruction, which adds up the even and the odd halves of the pairs apart and then both to the sum. So an element has one order,
// whatever its neighbours; what pads it to whole squares is zero.
#pragma once

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/matrix_registers.h"

namespace {

#if defined(__AMX_BF16__)
template <class T>
constexpr bool kSquares = kPairs<T>;
#else
template <class T>
constexpr bool kSquares = false;
constexpr int64_t kSquare = 16;
#endif
template <bool kUsed>
struct SquareRegisters {};

#if defined(__AMX_BF16__)

// The registers as whole squares, while this lives: one task.
template <>
struct SquareRegisters<true> {
  SquareRegisters() { use_shapes(kSquare, kSquare, kSquare); }
  ~SquareRegisters() { release_registers(); }
  SquareRegisters(const SquareRegisters&) = delete;
};

// c[m][n] = [c +] Σ_k a[m · a_row + k] · b[k · b_k + n] for whole squares of rows, lanes and units. Two by two sums at a time.
inline void square_product(int64_t rows, int64_t lanes, int64_t units, const Unit* a, int64_t a_row, const Unit* b, int64_t b_k, float* c,
                           int64_t c_row, Start start) {
  const int64_t a_bytes = a_row * 4, b_bytes = b_k * 4, c_bytes = c_row * 4;
  for (int64_t n = 0; n < lanes; n += 2 * kSquare)
    for (int64_t m = 0; m < rows; m += 2 * kSquare) {
      const int64_t lower = m + kSquare < rows ? kSquare : 0, right = n + kSquare < lanes ? kSquare : 0;
      float *c0 = c + m * c_row + n, *c1 = c0 + right, *c2 = c0 + lower * c_row, *c3 = c2 + right;
      if (start == Start::zero) {
        clear_square<0>(), clear_square<1>(), clear_square<2>(), clear_square<3>();
      } else {
        load_square<0>(c0, c_bytes), load_square<1>(c1, c_bytes), load_square<2>(c2, c_bytes), load_square<3>(c3, c_bytes);
      }
      const Unit *upper_a = a + m * a_row, *lower_a = upper_a + lower * a_row, *left_b = b + n, *right_b = left_b + right;
      for (int64_t k = 0; k < units; k += kSquare) {
        load_square<4>(upper_a + k, a_bytes);
        load_square<6>(left_b + k * b_k, b_bytes);
        multiply_squares<0, 4, 6>();
        if (right > 0) {
          load_square<7>(right_b + k * b_k, b_bytes);
          multiply_squares<1, 4, 7>();
        }
        if (lower == 0) continue;
        load_square<5>(lower_a + k, a_bytes);
        multiply_squares<2, 5, 6>();
        if (right > 0) multiply_squares<3, 5, 7>();
      }
      store_square<0>(c0, c_bytes);
      if (right > 0) store_square<1>(c1, c_bytes);
      if (lower > 0) store_square<2>(c2, c_bytes);
      if (lower > 0 && right > 0) store_square<3>(c3, c_bytes);
    }
}

#else
inline void square_product(int64_t, int64_t, int64_t, const Unit*, int64_t, const Unit*, int64_t, float*, int64_t, Start) {}
#endif

}  // namespace
