// Copies an operand into panels: `width` neighbouring columns (or rows) of it, unit by unit along k, padded with zeros, so that
// the innermost loop reads memory in order. A unit is 32 bits: one f32, one bf16 widened, or a pair of bf16 (kPairs).
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "kernels/cpu/tile.h"

namespace {

inline uint32_t widen(float x) { return bits_as<uint32_t>(x); }
inline uint32_t widen(uint16_t bf16) { return uint32_t{bf16} << 16; }

// An operand, seen as lines along its other dimension and k.
struct Operand {
  const char* data;
  int64_t stride;  // elements
  bool k_contiguous;
};

constexpr int64_t units_of(int64_t k, bool pairs) { return pairs ? (k + 1) / 2 : k; }

// to[(u − begin) · kWidth + j] = unit u of line j, for lines `line` … `line + count − 1`, u = begin … end−1.
template <class T, bool kPairs, int kWidth>
void pack_transposed(const T* from, int64_t stride, int64_t count, int64_t k, int64_t begin, int64_t end, uint32_t* to) {
  for (int64_t j = 0; j < count; ++j) {
    const T* line = from + j * stride;
    uint32_t* column = to + j;
    for (int64_t u = begin; u < end; ++u, column += kWidth) {
      if constexpr (kPairs) *column = line[2 * u] | (2 * u + 1 < k ? uint32_t{line[2 * u + 1]} << 16 : 0);
      else *column = widen(line[u]);
    }
  }
}

template <class T, bool kPairs, int kWidth>
void pack_rows(const T* from, int64_t stride, int64_t count, int64_t k, int64_t begin, int64_t end, uint32_t* to) {
  for (int64_t u = begin; u < end; ++u, to += kWidth) {
    if constexpr (kPairs) {
      const T* row = from + 2 * u * stride;
      if (2 * u + 1 < k)
        for (int64_t j = 0; j < count; ++j) to[j] = row[j] | uint32_t{row[stride + j]} << 16;
      else
        for (int64_t j = 0; j < count; ++j) to[j] = row[j];
    } else {
      const T* row = from + u * stride;
      for (int64_t j = 0; j < count; ++j) to[j] = widen(row[j]);
    }
  }
}

// Lines `line` … `line + count − 1` (count ≤ kWidth), units begin … end−1 of the operand, whose k has `k` elements.
template <class T, bool kPairs, int kWidth>
void pack(const Operand& from, int64_t line, int64_t count, int64_t k, int64_t begin, int64_t end, uint32_t* to) {
  const T* data = reinterpret_cast<const T*>(from.data);
  if (count < kWidth) memset(to, 0, static_cast<size_t>((end - begin) * kWidth) * 4);
  if (from.k_contiguous) pack_transposed<T, kPairs, kWidth>(data + line * from.stride, from.stride, count, k, begin, end, to);
  else pack_rows<T, kPairs, kWidth>(data + line, from.stride, count, k, begin, end, to);
}

}  // namespace
