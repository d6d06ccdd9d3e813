// Copies an operand into panels: kWidth neighbouring lines (columns of b, rows of a), unit by unit along k, padded with zeros, so
// that the innermost loop reads memory in order. A unit is 32 bits: one f32, one bf16 widened, or a pair of bf16 (kPairs).
//
//   to[(u − begin) · kWidth + j] = unit u of line j,   u = begin … end−1
//
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "kernels/cpu/tile.h"

namespace {

typedef uint32_t vw_unaligned __attribute__((vector_size(kBytes), aligned(2)));  // pairs of bf16 begin at any of them
typedef uint16_t vh_half_unaligned __attribute__((vector_size(kBytes / 2), aligned(2)));

inline vw load_units(const void* p) { return *static_cast<const vw_unaligned*>(p); }
inline void store_units(uint32_t* p, vw x) { *reinterpret_cast<vw_unaligned*>(p) = x; }
inline vw widen(const uint16_t* p) {
#if defined(__AVX512F__)
  return bits_as<vw>(_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#else
  return __builtin_convertvector(*reinterpret_cast<const vh_half_unaligned*>(p), vw);
#endif
}

// An operand, seen as lines of length k.
struct Operand {
  const char* data;
  int64_t stride;  // elements between lines, or between one k and the next
  bool k_contiguous;
  int64_t lines, k;
};

constexpr int64_t units_of(int64_t k, bool pairs) { return pairs ? (k + 1) / 2 : k; }

// Transposes kRegister registers in place: half after half of them zipped, as often as it takes.
#if defined(__AVX512F__)
constexpr vw kZipLow{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
#elif defined(__AVX2__)
constexpr vw kZipLow{0, 8, 1, 9, 2, 10, 3, 11};
#else
constexpr vw kZipLow{0, 4, 1, 5};
#endif
constexpr vw kZipHigh = kZipLow + kRegister / 2;
inline void transpose(vw (&r)[kRegister]) {
#pragma GCC unroll 4
  for (int stage = 1; stage < kRegister; stage *= 2) {
    vw zipped[kRegister];
#pragma GCC unroll 8
    for (int i = 0; i < kRegister / 2; ++i) {
      zipped[2 * i] = __builtin_shuffle(r[i], r[i + kRegister / 2], kZipLow);
      zipped[2 * i + 1] = __builtin_shuffle(r[i], r[i + kRegister / 2], kZipHigh);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRegister; ++i) r[i] = zipped[i];
  }
}

template <class T, bool kPairs>
inline uint32_t unit_of(const T* line, int64_t u, int64_t k) {
  if constexpr (sizeof(T) == 4) return bits_as<uint32_t>(line[u]);
  else if constexpr (kPairs) return line[2 * u] | (2 * u + 1 < k ? uint32_t{line[2 * u + 1]} << 16 : 0);
  else return uint32_t{line[u]} << 16;
}

// Lines that are contiguous along k.
template <class T, bool kPairs, int kWidth>
void pack_lines(const T* from, int64_t stride, int64_t count, int64_t k, int64_t begin, int64_t end, uint32_t* to) {
  // A register holds kRegister words of 32 bits of a line; a word is a unit, or two where bf16 is widened.
  constexpr int64_t kWords = kRegister * (sizeof(T) == 2 && !kPairs ? 2 : 1);
  int64_t u = begin;
  for (; u + kWords <= (kPairs ? min(end, k / 2) : end); u += kWords)
    for (int64_t j = 0; j < kWidth; j += kRegister) {
      vw r[kRegister];
      const T* line = from + j * stride + (kPairs ? 2 * u : u);
#pragma GCC unroll 16
      for (int i = 0; i < kRegister; ++i) r[i] = j + i < count ? load_units(line + i * stride) : vw{};
      transpose(r);
      uint32_t* column = to + (u - begin) * kWidth + j;
#pragma GCC unroll 16
      for (int i = 0; i < kRegister; ++i) {
        if constexpr (sizeof(T) == 2 && !kPairs) {
          store_units(column + 2 * i * kWidth, r[i] << 16);
          store_units(column + (2 * i + 1) * kWidth, r[i] & 0xffff0000u);
        } else {
          store_units(column + i * kWidth, r[i]);
        }
      }
    }
  for (; u < end; ++u)
    for (int64_t j = 0; j < kWidth; ++j) to[(u - begin) * kWidth + j] = j < count ? unit_of<T, kPairs>(from + j * stride, u, k) : 0;
}

// Lines that stand side by side: element k of all of them is contiguous, `readable` ≥ count of them in bounds.
template <class T, bool kPairs, int kWidth>
void pack_rows(const T* from, int64_t stride, int64_t count, int64_t readable, int64_t k, int64_t begin, int64_t end, uint32_t* to) {
  constexpr int64_t kAhead = 32;  // rows fetched in advance, into L2: they lie too far apart for the hardware to guess, and for L1
  // Lines beyond `count` are nobody's: they may hold anything where reading them is allowed.
  const int64_t whole = readable >= kWidth ? kWidth : count / kRegister * kRegister;
  constexpr int kStep = kPairs ? 2 : 1;
  for (int64_t u = begin; u < end; ++u, to += kWidth) {
    const T* row = from + kStep * u * stride;
    const bool pair = kPairs && 2 * u + 1 < k;
#pragma GCC unroll 2
    for (int s = 0; s < kStep; ++s)
      for (size_t at = 0; at < kWidth * sizeof(T); at += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(row + (kAhead + s) * stride) + at, 0, 2);
    for (int64_t j = 0; j < whole; j += kRegister) {
      if constexpr (sizeof(T) == 4) store_units(to + j, load_units(row + j));
      else if constexpr (!kPairs) store_units(to + j, widen(row + j) << 16);
      else store_units(to + j, pair ? widen(row + j) | widen(row + stride + j) << 16 : widen(row + j));
    }
    for (int64_t j = whole; j < kWidth; ++j) {
      if (j >= count) to[j] = 0;
      else if constexpr (kPairs) to[j] = row[j] | (pair ? uint32_t{row[stride + j]} << 16 : 0);
      else to[j] = unit_of<T, kPairs>(row + j, 0, 1);
    }
  }
}

// kWidth lines from `line` on, units begin … end−1.
template <class T, bool kPairs, int kWidth>
void pack(const Operand& from, int64_t line, int64_t count, int64_t begin, int64_t end, uint32_t* to) {
  const T* data = reinterpret_cast<const T*>(from.data);
  if (from.k_contiguous) pack_lines<T, kPairs, kWidth>(data + line * from.stride, from.stride, count, from.k, begin, end, to);
  else pack_rows<T, kPairs, kWidth>(data + line, from.stride, count, from.lines - line, from.k, begin, end, to);
}

}  // namespace
