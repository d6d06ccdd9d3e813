// The matrix registers (AMX), by number: 16 rows of 16 units of a, a pair of bf16 each, times 16 units of 16 columns of b in one
// instruction. (GCC 12's own functions do not tell the compiler what memory they read and write.) Included only by files that are compiled
// per instruction set; everything here is internal to the including file.
#pragma once

#include <stdint.h>

#if defined(__AMX_BF16__)
namespace {

constexpr int64_t kSquare = 16;  // rows, columns and units of a register

// tmm0 … 3 hold sums, 4 and 5 rows of a, 6 and 7 columns of b; without high rows 2, 3 and 5 are not there.
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
    s.row_bytes[tmm] = static_cast<uint16_t>(rows > 0 ? bytes : 0);
  };
  for (int t = 0; t < 4; ++t) shape(t, t < 2 ? low_rows : high_rows, 64);
  shape(4, low_rows, units * 4);
  shape(5, high_rows, units * 4);
  shape(6, units, 64);
  shape(7, units, 64);
  asm volatile("ldtilecfg (%0)" ::"r"(&s) : "memory");
}
inline void release_registers() { asm volatile("tilerelease"); }

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

}  // namespace
#endif
