// Vectors of 16 floats, written once with the compiler's vector extensions for every instruction set: AVX-512 has them in one
// register, AVX2 in two, others in four. The same 16 lanes everywhere, so that reductions have one order.
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = 16;
typedef float vf __attribute__((vector_size(64)));
typedef float vf_unaligned __attribute__((vector_size(64), aligned(4)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint16_t vh __attribute__((vector_size(32)));
typedef uint16_t vh_unaligned __attribute__((vector_size(32), aligned(2)));

inline vf splat(float x) { return x - vf{}; }
inline vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
inline void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }

// The same bits under another type.
template <class To, class From>
inline To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, x);
}

// bf16 (as bits) to float and back, rounding to nearest even; NaN stays NaN. (AVX512_BF16 takes subnormal floats for 0.)
inline vf from_bf16(vh h) {
#if defined(__AVX512F__)
  const vu wide = bits_as<vu>(_mm512_maskz_cvtepu16_epi32(0xffff, bits_as<__m256i>(h)));  // GCC 12 converts the halves apart
#else
  const vu wide = __builtin_convertvector(h, vu);
#endif
  return bits_as<vf>(wide << 16);
}
inline vh to_bf16(vf x) {
#if defined(__AVX512BF16__)
  return bits_as<vh>(_mm512_cvtneps_pbh(bits_as<__m512>(x)));
#else
  const vu u = bits_as<vu>(x);
  const vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const vu quiet = (u >> 16) | 0x40;
  const vu nan = bits_as<vu>((u & 0x7fffffffu) > 0x7f800000u);
  const vu bits = (rounded & ~nan) | (quiet & nan);
#if defined(__AVX512F__)
  return bits_as<vh>(_mm512_maskz_cvtepi32_epi16(0xffff, bits_as<__m512i>(bits)));
#else
  return __builtin_convertvector(bits, vh);
#endif
#endif
}
inline vf load_bf16(const uint16_t* p) { return from_bf16(*reinterpret_cast<const vh_unaligned*>(p)); }
inline void store_bf16(uint16_t* p, vf x) { *reinterpret_cast<vh_unaligned*>(p) = to_bf16(x); }

// The storage types of a kernel's template: float, or bf16 as uint16_t.
inline vf load(const uint16_t* p) { return load_bf16(p); }
inline void store(uint16_t* p, vf x) { store_bf16(p, x); }

// The first n lanes alone, all of them for n >= kLanes; the rest are read as 0 (or `missing`).
#if defined(__AVX512F__)
inline __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
inline vf load_part(const float* p, int64_t n) { return bits_as<vf>(_mm512_maskz_loadu_ps(first_lanes(n), p)); }
inline vf load_part(const uint16_t* p, int64_t n) { return from_bf16(bits_as<vh>(_mm256_maskz_loadu_epi16(first_lanes(n), p))); }
inline void store_part(float* p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), bits_as<__m512>(x)); }
inline void store_part(uint16_t* p, vf x, int64_t n) { _mm256_mask_storeu_epi16(p, first_lanes(n), bits_as<__m256i>(to_bf16(x))); }
#else
template <class T>
inline vf load_part(const T* p, int64_t n) {
  T lanes[kLanes] = {};
  memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
  return load(lanes);
}
template <class T>
inline void store_part(T* p, vf x, int64_t n) {
  T lanes[kLanes];
  store(lanes, x);
  memcpy(p, lanes, static_cast<size_t>(n) * sizeof(T));
}
#endif
template <class T>
inline vf load(const T* p, int64_t n) {
  return n >= kLanes ? load(p) : load_part(p, n);
}
inline vf load(const float* p, int64_t n, float missing) {
  if (n >= kLanes) return load(p);
  const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < static_cast<int32_t>(n) ? load_part(p, n) : vf{} + missing;
}
template <class T>
inline void store(T* p, vf x, int64_t n) {
  n >= kLanes ? store(p, x) : store_part(p, x, n);
}

// x as it will be read again after it was stored as T.
template <class T>
inline vf round_to(vf x) {
  if constexpr (sizeof(T) == 4) return x;
  else return from_bf16(to_bf16(x));
}

// What follows takes any vector of floats (V), vf or narrower.

// a · b + c, fused where the instruction set can.
template <class V>
inline V madd(V a, V b, V c) {
  return a * b + c;
}
// (Intrinsics are taken in their form with a mask, here full: GCC 12 warns that the plain one reads uninitialised memory.)

// The larger (smaller) of the two; b where one of them is NaN. That is what the one instruction does, which GCC 12 does not find.
template <class V>
inline V vmax(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return bits_as<V>(_mm512_maskz_max_ps(0xffff, bits_as<__m512>(a), bits_as<__m512>(b)));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) return bits_as<V>(_mm256_max_ps(bits_as<__m256>(a), bits_as<__m256>(b)));
#endif
  return a > b ? a : b;
}
template <class V>
inline V vmin(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return bits_as<V>(_mm512_maskz_min_ps(0xffff, bits_as<__m512>(a), bits_as<__m512>(b)));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) return bits_as<V>(_mm256_min_ps(bits_as<__m256>(a), bits_as<__m256>(b)));
#endif
  return a < b ? a : b;
}

// p · 2^n for integral n in [-160, 160], in two steps so that the result may be subnormal, zero or infinite. (AVX-512 has it in one, and
// for every n, of which it takes the floor.)
template <class V>
inline V scale_by_power(V p, V n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return bits_as<V>(_mm512_maskz_scalef_ps(0xffff, bits_as<__m512>(p), bits_as<__m512>(n)));
#endif
  using I = decltype(p < n);
  const I i = __builtin_convertvector(n, I), half = i >> 1;
  return p * bits_as<V>((half + 127) << 23) * bits_as<V>((i - half + 127) << 23);
}

// x to the nearest integer, |x| < 2^22.
template <class V>
inline V nearest(V x) {
  constexpr float kShift = 12582912;  // 1.5 · 2^23: adding it leaves no fraction bits
  return (x + kShift) - kShift;
}

// e^r for |r| <= ln 2 / 2: 1 + r + c2 r² + … + c6 r⁶, the minimax polynomial (relative error 3.1e-9).
template <class V>
inline V exp_reduced(V r) {
  V p = madd(r, V{} + 0x1.6a23cep-10f, V{} + 0x1.123a2p-7f);
  p = madd(p, r, V{} + 0x1.5558f2p-5f);
  p = madd(p, r, V{} + 0x1.555492p-3f);
  p = madd(p, r, V{} + 0x1.fffffcp-2f);
  p = madd(p, r, V{} + 1.0f);
  return madd(p, r, V{} + 1.0f);
}

// e^x: within 2 units in the last place of the true value over all floats; 0 at −inf, inf at inf, NaN at NaN.
template <class V>
inline V vexp(V x) {
  x = vmax(V{} - 104.0f, x);  // below: rounds to 0. In this order NaN stays.
  x = vmin(V{} + 89.0f, x);   // above: rounds to infinity
  const V n = nearest(x * 0x1.715476p+0f);
  const V r = madd(n, V{} - 0x1.7f7d1c0000000p-20f, madd(n, V{} - 0x1.62e4p-1f, x));  // Cody–Waite: ln 2 in two parts
  return scale_by_power(exp_reduced(r), n);
}

// 2^x: within 2 units in the last place, as vexp.
template <class V>
inline V vexp2(V x) {
  x = vmax(V{} - 151.0f, x);
  x = vmin(V{} + 129.0f, x);
  const V n = nearest(x);
  return scale_by_power(exp_reduced((x - n) * 0x1.62e43p-1f), n);
}

// 2^x for x <= 127 within 2.7e-6 of itself, for what is rounded to bf16 next: 2^floor(x) times the minimax polynomial of the rest.
template <class V>
inline V vexp2_short(V x) {
  x = vmax(V{} - 151.0f, x);
#if defined(__AVX512DQ__)
  V rest;
  if constexpr (sizeof(V) == 64) rest = bits_as<V>(_mm512_maskz_reduce_ps(0xffff, bits_as<__m512>(x), 9));  // x − floor(x)
  else rest = x - nearest(x - 0.5f);
#else
  const V rest = x - nearest(x - 0.5f);  // 1 instead of 0 at some whole x
#endif
  V p = madd(rest, V{} + 0x1.bb7cd4p-7f, V{} + 0x1.aa13fp-5f);
  p = madd(p, rest, V{} + 0x1.ee798ap-3f);
  p = madd(p, rest, V{} + 0x1.62d166p-1f);
  p = madd(p, rest, V{} + 0x1.00002cp+0f);
#if defined(__AVX512DQ__)
  if constexpr (sizeof(V) == 64) return scale_by_power(p, x);  // which takes the floor
#endif
  return scale_by_power(p, x - rest);
}

// Sum and maximum over the 16 lanes, halves folded together: one order everywhere.
template <class V, class Fold>
inline auto horizontal(V x, Fold fold) {
  x = fold(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  x = fold(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  x = fold(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  return fold(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))[0];
}
inline float horizontal_sum(vf x) {
  return horizontal(x, [](vf a, vf b) { return a + b; });
}
inline float horizontal_max(vf x) {
  return horizontal(x, [](vf a, vf b) { return vmax(a, b); });
}

// The lanes that are not NaN.
inline vi is_number(vf x) { return x <= vf{} + __builtin_inff(); }

inline vf vsqrt(vf x) {
#if defined(__AVX512F__)
  return bits_as<vf>(_mm512_maskz_sqrt_ps(0xffff, bits_as<__m512>(x)));
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// f(i, lanes) for i = 0, 16, 32 … < n, lanes = min(16, n - i). Whole vectors know that they are whole when they are compiled.
template <class F>
inline void for_vectors(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, int64_t{kLanes});
  if (i < n) f(i, n - i);
}

// Σ f(i, lanes) over i = 0, 16, 32 … < n, lanes = min(16, n - i): four interleaved sums, so that the additions overlap.
template <class F>
inline float sum_over(int64_t n, F f) {
  vf part[4] = {};
  int64_t i = 0;
  for (; i + int64_t{4} * kLanes <= n; i += int64_t{4} * kLanes)
    for (int64_t j = 0; j < 4; ++j) part[j] += f(i + j * kLanes, int64_t{kLanes});
  for (; i + kLanes <= n; i += kLanes) part[0] += f(i, int64_t{kLanes});
  if (i < n) part[0] += f(i, n - i);
  return horizontal_sum((part[0] + part[1]) + (part[2] + part[3]));
}

}  // namespace
