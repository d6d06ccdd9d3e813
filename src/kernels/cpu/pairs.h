// Rows taken 32 elements at a time as 16 neighbouring pairs, a pair to a lane: how codes of 12 bits are packed.
// Included only by files that are compiled per instruction set.
#pragma once

#include "kernels/cpu/simd.h"

namespace {

constexpr int64_t kPairElements = 2 * kLanes;

struct Pairs {
  vf even, odd;
};

// Two bf16 are a lane as they stand: the even one below, the odd one above.
inline Pairs load_pairs(const uint16_t* x) {
  vu both;
  memcpy(&both, x, sizeof both);
  return {bits_as<vf>(both << 16), bits_as<vf>(both & 0xffff0000u)};
}
inline Pairs load_pairs(const float* x) {
  const vf a = load(x), b = load(x + kLanes);
  return {__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
          __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
}
inline void store_pairs(uint16_t* y, Pairs p) {
  const vu both = __builtin_convertvector(to_bf16(p.even), vu) | __builtin_convertvector(to_bf16(p.odd), vu) << 16;
  memcpy(y, &both, sizeof both);
}
inline void store_pairs(float* y, Pairs p) {
  store(y, __builtin_shufflevector(p.even, p.odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
  store(y + kLanes, __builtin_shufflevector(p.even, p.odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
}
// The first n elements alone; those that are missing are read as 0.
template <class T>
inline Pairs load_pairs(const T* x, int64_t n) {
  if (n >= kPairElements) return load_pairs(x);
  T part[kPairElements] = {};
  memcpy(part, x, static_cast<size_t>(n) * sizeof(T));
  return load_pairs(part);
}
template <class T>
inline void store_pairs(T* y, Pairs p, int64_t n) {
  if (n >= kPairElements) return store_pairs(y, p);
  T part[kPairElements];
  store_pairs(part, p);
  memcpy(y, part, static_cast<size_t>(n) * sizeof(T));
}

// The low three bytes of each lane, one after the other: the first `bytes` of 48.
inline void store_triples(uint8_t* to, vu x, int64_t bytes) {
#if defined(__AVX512BW__)
  const __m512i within = _mm512_maskz_broadcast_i32x4(0xffff, _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  const __m512i across = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0);
  const __m512i close = _mm512_maskz_permutexvar_epi32(0xffff, across, _mm512_maskz_shuffle_epi8(~0ull, bits_as<__m512i>(x), within));
  _mm512_mask_storeu_epi8(to, (uint64_t{1} << (bytes < 48 ? bytes : 48)) - 1, close);
#else
  for (int64_t i = 0; 3 * i < bytes && i < kLanes; ++i) {
    const uint32_t triple = x[i];
    memcpy(to + 3 * i, &triple, 3);
  }
#endif
}
inline vu load_triples(const uint8_t* from, int64_t bytes) {
#if defined(__AVX512BW__)
  const __m512i within = _mm512_maskz_broadcast_i32x4(0xffff, _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
  const __m512i across = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
  const __m512i close = _mm512_maskz_loadu_epi8((uint64_t{1} << (bytes < 48 ? bytes : 48)) - 1, from);
  return bits_as<vu>(_mm512_maskz_shuffle_epi8(~0ull, _mm512_maskz_permutexvar_epi32(0xffff, across, close), within));
#else
  vu x = {};
  for (int64_t i = 0; 3 * i < bytes && i < kLanes; ++i) {
    uint32_t triple = 0;
    memcpy(&triple, from + 3 * i, 3);
    x[i] = triple;
  }
  return x;
#endif
}

}  // namespace
