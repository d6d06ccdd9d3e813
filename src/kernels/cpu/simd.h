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

}  // namespace
