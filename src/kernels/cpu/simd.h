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

// bf16 (as bits) to float and back, rounding to nearest even; NaN stays NaN.
inline vf load_bf16(const uint16_t* p) {
  const vh h = *reinterpret_cast<const vh_unaligned*>(p);
  return bits_as<vf>(__builtin_convertvector(h, vu) << 16);
}
inline void store_bf16(uint16_t* p, vf x) {
#if defined(__AVX512BF16__)
  const __m256bh h = _mm512_cvtneps_pbh(bits_as<__m512>(x));
  memcpy(p, &h, 32);
#else
  const vu u = bits_as<vu>(x);
  const vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const vu quiet = (u >> 16) | 0x40;
  const vu nan = bits_as<vu>((u & 0x7fffffffu) > 0x7f800000u);
  *reinterpret_cast<vh_unaligned*>(p) = __builtin_convertvector((rounded & ~nan) | (quiet & nan), vh);
#endif
}

// What follows takes any vector of floats (V), vf or narrower.

// a · b + c, fused where the instruction set can.
template <class V>
inline V madd(V a, V b, V c) {
  return a * b + c;
}
// The larger (smaller) of the two; b where one of them is NaN.
template <class V>
inline V vmax(V a, V b) {
  return a > b ? a : b;
}
template <class V>
inline V vmin(V a, V b) {
  return a < b ? a : b;
}

// p · 2^n for integral n in [-160, 160], in two steps so that the result may be subnormal, zero or infinite.
template <class V>
inline V scale_by_power(V p, V n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return bits_as<V>(_mm512_scalef_ps(bits_as<__m512>(p), bits_as<__m512>(n)));
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
  x = x < -104.0f ? V{} - 104.0f : x;  // below: rounds to 0. Written so that NaN stays.
  x = x > 89.0f ? V{} + 89.0f : x;     // above: rounds to infinity
  const V n = nearest(x * 0x1.715476p+0f);
  const V r = madd(n, V{} - 0x1.7f7d1c0000000p-20f, madd(n, V{} - 0x1.62e4p-1f, x));  // Cody–Waite: ln 2 in two parts
  return scale_by_power(exp_reduced(r), n);
}

// 2^x: within 2 units in the last place, as vexp.
template <class V>
inline V vexp2(V x) {
  x = x < -151.0f ? V{} - 151.0f : x;
  x = x > 129.0f ? V{} + 129.0f : x;
  const V n = nearest(x);
  return scale_by_power(exp_reduced((x - n) * 0x1.62e43p-1f), n);
}

// Sum and maximum over the 16 lanes, halves folded together: one order everywhere.
inline float horizontal_sum(vf x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(bits_as<__m512>(x));
#else
  float t[kLanes];
  store(t, x);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) t[i] += t[i + half];
  return t[0];
#endif
}
inline float horizontal_max(vf x) {
  float t[kLanes];
  store(t, x);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
  return t[0];
}

}  // namespace
