// What attention's forward and backward are made of: packed operands and one product of tiles.
//
// A product's operands are made of units of 32 bits along the summed index: one float, or two bf16 neighbours where the
// instruction set multiplies bf16 pairs (vdpbf16ps). Elsewhere bf16 becomes float when it is packed. So the same loops serve
// all types, and every element of a product is one chain over the summed index in ascending order, whatever the tile's size.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

namespace {

using finback::core::ConstMat;
using finback::core::Mat;

typedef uint32_t Unit __attribute__((may_alias));

// One register of the machine.
#if defined(__AVX512F__)
constexpr int kRegister = 16, kTileRows = 8, kTileRegisters = 2;
#elif defined(__AVX2__)
constexpr int kRegister = 8, kTileRows = 4, kTileRegisters = 2;
#else
constexpr int kRegister = 4, kTileRows = 2, kTileRegisters = 4;
#endif
typedef float vr __attribute__((vector_size(4 * kRegister)));
typedef float vr_unaligned __attribute__((vector_size(4 * kRegister), aligned(4), may_alias));

inline vr load_r(const void* p) { return *static_cast<const vr_unaligned*>(p); }
inline void store_r(void* p, vr x) { *static_cast<vr_unaligned*>(p) = x; }
inline vr lane_numbers() {
  vr x;
  for (int i = 0; i < kRegister; ++i) x[i] = static_cast<float>(i);
  return x;
}
inline vr splat_r(float x) { return x - vr{}; }

#if defined(__AVX512BF16__)
template <class T>
constexpr bool kPairs = sizeof(T) == 2;
#else
template <class T>
constexpr bool kPairs = false;
#endif
template <class T>
constexpr int64_t kPerUnit = kPairs<T> ? 2 : 1;

template <bool kPaired>
struct Packed {
  using Element = float;
};
template <>
struct Packed<true> {
  using Element = uint16_t;
};
template <class T>
using Element = typename Packed<kPairs<T>>::Element;

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- products

enum class Start { zero, add, scaled };  // c = Σ, c += Σ, c = factor · c + Σ

template <bool kPaired>
inline vr multiply_add(Unit a, vr b, vr c) {
#if defined(__AVX512BF16__)
  if constexpr (kPaired)
    return bits_as<vr>(
        _mm512_dpbf16_ps(bits_as<__m512>(c), bits_as<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))), bits_as<__m512bh>(b)));
#endif
  return madd(splat_r(bits_as<float>(a)), b, c);
}

// M rows by N registers of c[m][n] = … Σ_k a[m · a_row + k · a_k] · b[k · b_k + n].
template <bool kPaired, int M, int N>
inline void product_tile(int64_t depth, const Unit* a, int64_t a_row, int64_t a_k, const Unit* b, int64_t b_k, float* c, int64_t c_row,
                         Start start, const float* factor) {
  vr sum[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const float* at = c + m * c_row + n * kRegister;
      sum[m][n] = start == Start::zero ? vr{} : start == Start::add ? load_r(at) : load_r(at) * load_r(factor + n * kRegister);
    }
  for (int64_t k = 0; k < depth; ++k) {
    vr column[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) column[n] = load_r(b + k * b_k + n * kRegister);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[m][n] = multiply_add<kPaired>(a[m * a_row + k * a_k], column[n], sum[m][n]);
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store_r(c + m * c_row + n * kRegister, sum[m][n]);
}

// The same for `rows` (a multiple of 8) by `lanes` (a multiple of 16).
template <bool kPaired>
void product(int64_t rows, int64_t lanes, int64_t depth, const Unit* a, int64_t a_row, int64_t a_k, const Unit* b, int64_t b_k, float* c,
             int64_t c_row, Start start, const float* factor = nullptr) {
  constexpr int64_t kTileLanes = kTileRegisters * kRegister;
  int64_t n = 0;
  for (; n + kTileLanes <= lanes; n += kTileLanes)
    for (int64_t m = 0; m < rows; m += kTileRows)
      product_tile<kPaired, kTileRows, kTileRegisters>(depth, a + m * a_row, a_row, a_k, b + n, b_k, c + m * c_row + n, c_row, start,
                                                       factor + n);
  for (; n < lanes; n += kLanes)
    for (int64_t m = 0; m < rows; m += kTileRows)
      product_tile<kPaired, kTileRows, kLanes / kRegister>(depth, a + m * a_row, a_row, a_k, b + n, b_k, c + m * c_row + n, c_row, start,
                                                           factor + n);
}

// One row: lanes (a multiple of 16) of c[n] = … Σ_k a[k] · b[k · b_k + n]; factor is kRowLanes long.
constexpr int kRowRegisters = kRegister == 16 ? 4 : 8;
constexpr int64_t kRowLanes = kRowRegisters * kRegister;
template <bool kPaired>
void product_row(int64_t lanes, int64_t depth, const Unit* a, const Unit* b, int64_t b_k, float* c, Start start,
                 const float* factor = nullptr) {
  int64_t n = 0;
  for (; n + kRowLanes <= lanes; n += kRowLanes)
    product_tile<kPaired, 1, kRowRegisters>(depth, a, 0, 1, b + n, b_k, c + n, 0, start, factor);
  for (; n < lanes; n += kLanes) product_tile<kPaired, 1, kLanes / kRegister>(depth, a, 0, 1, b + n, b_k, c + n, 0, start, factor);
}

// A weight 2^x of a key, as exact as the type that it is stored in or stands beside.
template <class T>
inline vr weight_of(vr x) {
  if constexpr (sizeof(T) == 2) return vexp2_short(x);
  else return vexp2(x);
}

// ---- packing

// A row of n elements into packed ones.
template <class T>
inline void pack_row(const T* from, int64_t n, T* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) memcpy(to + i, from + i, kLanes * sizeof(T));  // a register or two, without a call
  for (; i < n; ++i) to[i] = from[i];
}
inline void pack_row(const uint16_t* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load_bf16(from + i));
  for (; i < n; ++i) to[i] = bits_as<float>(uint32_t{from[i]} << 16);
}

// And back: n floats into a row of storage.
inline void store_row(float* to, const float* from, int64_t n) { memcpy(to, from, static_cast<size_t>(n) * sizeof(float)); }
inline void store_row(uint16_t* to, const float* from, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_bf16(to + i, load(from + i));
  if (i < n) {
    float rest[kLanes] = {};
    uint16_t rounded[kLanes];
    memcpy(rest, from + i, static_cast<size_t>(n - i) * sizeof(float));
    store_bf16(rounded, load(rest));
    memcpy(to + i, rounded, static_cast<size_t>(n - i) * sizeof(uint16_t));
  }
}

// [rows][columns] of units to [columns][rows]; both are multiples of 16.
inline void interleave(vr a, vr b, vr& low, vr& high) {
#if defined(__AVX512F__)
  low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}
inline void transpose_registers(const Unit* from, int64_t from_row, Unit* to, int64_t to_row) {
  vr x[kRegister], y[kRegister];
#pragma GCC unroll 16
  for (int i = 0; i < kRegister; ++i) x[i] = load_r(from + i * from_row);
#pragma GCC unroll 4
  for (int stage = 1; stage < kRegister; stage *= 2) {  // log2 stages, each interleaving row i with row i + half
#pragma GCC unroll 8
    for (int i = 0; i < kRegister / 2; ++i) interleave(x[i], x[i + kRegister / 2], y[2 * i], y[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < kRegister; ++i) x[i] = y[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRegister; ++i) store_r(to + i * to_row, x[i]);
}
inline void transpose(int64_t rows, int64_t columns, const Unit* from, int64_t from_row, Unit* to, int64_t to_row) {
  for (int64_t r = 0; r < rows; r += kRegister)
    for (int64_t c = 0; c < columns; c += kRegister) transpose_registers(from + r * from_row + c, from_row, to + c * to_row + r, to_row);
}

// Rows r and r+1 of bf16 as units: to[r / 2][c] = (from[r][c], from[r + 1][c]). Rows are even, columns a multiple of 16.
inline void pair_rows(int64_t rows, int64_t columns, const uint16_t* from, int64_t from_row, Unit* to, int64_t to_row) {
  for (int64_t r = 0; r < rows; r += 2)
    for (int64_t c = 0; c < columns; c += kLanes) {
      const vf low = load_bf16(from + r * from_row + c), high = load_bf16(from + (r + 1) * from_row + c);
      store(reinterpret_cast<float*>(to + r / 2 * to_row + c), bits_as<vf>((bits_as<vu>(low) >> 16) | bits_as<vu>(high)));
    }
}

// 16 units whose lower halves are `even` and upper halves `odd`, rounded to bf16.
inline void store_pairs([[maybe_unused]] Unit* to, [[maybe_unused]] vr even, [[maybe_unused]] vr odd) {
#if defined(__AVX512BF16__)
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                         18, 2, 17, 1, 16, 0);
  const __m512bh both = _mm512_cvtne2ps_pbh(bits_as<__m512>(odd), bits_as<__m512>(even));
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, bits_as<__m512i>(both)));
#else
  __builtin_unreachable();  // no type is paired here
#endif
}

// The same 16 numbers as two bytes each, in order.
inline void store_halves([[maybe_unused]] uint16_t* to, [[maybe_unused]] vr x) {
#if defined(__AVX512BF16__)
  store_bf16(to, x);
#else
  __builtin_unreachable();
#endif
}

// ---- heads

// Sizes of one head's vectors: n elements, as units along themselves (`depth`; padded to whole vectors: `units`), and as lanes.
template <class T>
struct Extent {
  int64_t n;
  int64_t depth() const { return (n + kPerUnit<T> - 1) / kPerUnit<T>; }
  int64_t units() const { return round_up(depth(), kLanes); }
  int64_t lanes() const { return round_up(n, kLanes); }
};

constexpr int64_t kGroup = 32;  // queries that pass through a product together
constexpr double kLog2E = 1.4426950408889634;

// Hands out memory in order; without a base it only counts.
struct Carver {
  char* base = nullptr;
  int64_t bytes = 0;
  template <class U>
  U* take(int64_t n) {
    char* p = base ? base + bytes : nullptr;
    bytes += round_up(n * int64_t{sizeof(U)}, 64);
    return static_cast<U*>(static_cast<void*>(p));
  }
};

// The segment of a task: the last i with first_task[i] <= task.
inline int64_t segment_of(const int64_t* first_task, int64_t segments, int64_t task) {
  int64_t low = 0, high = segments;  // first_task[low] <= task < first_task[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (first_task[middle] <= task ? low : high) = middle;
  }
  return low;
}

// Copies n columns of `rows` rows into a packed matrix.
template <class T>
void pack_rows(const ConstMat& from, int64_t row, int64_t rows, int64_t column, int64_t n, Element<T>* to, int64_t to_row) {
  for (int64_t r = 0; r < rows; ++r) pack_row(from.row<T>(row + r) + column, n, to + r * to_row);
}

// Zeroes what lies outside the first rows and columns of a packed matrix.
template <class E>
void pad(E* m, int64_t rows, int64_t columns, int64_t all_rows, int64_t all_columns) {
  if (columns < all_columns)
    for (int64_t r = 0; r < rows; ++r) memset(m + r * all_columns + columns, 0, static_cast<size_t>(all_columns - columns) * sizeof(E));
  if (rows < all_rows) memset(m + rows * all_columns, 0, static_cast<size_t>((all_rows - rows) * all_columns) * sizeof(E));
}

}  // namespace
