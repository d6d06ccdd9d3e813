// The scales of tiles in vectors, 16 tiles at a time: what numerics/tile_scale.h does for one, bit for bit. Included only by files
// that are compiled per instruction set.
#pragma once

#include "kernels/cpu/simd.h"

namespace {

constexpr uint32_t kInfinity = 0x7f800000u;  // bits of magnitudes from here on are infinite or NaN

inline vu larger(vu a, vu b) {
#if defined(__AVX512F__)
  return bits_as<vu>(_mm512_maskz_max_epu32(0xffff, bits_as<__m512i>(a), bits_as<__m512i>(b)));
#else
  return a > b ? a : b;
#endif
}
inline vu magnitude_bits(vf x) { return bits_as<vu>(x) & 0x7fffffffu; }

// The largest magnitude of elements that come row by row, as the bits of an f32.
template <class T>
class Largest {
 public:
  void add(const T* x, int64_t n) {
    int64_t i = 0;
    for (; i + int64_t{4} * kLanes <= n; i += int64_t{4} * kLanes)
      for (int64_t j = 0; j < 4; ++j) part_[j] = larger(part_[j], magnitude_bits(load(x + i + j * kLanes)));
    for (; i < n; i += kLanes) part_[0] = larger(part_[0], magnitude_bits(load(x + i, n - i)));
  }
  // The same without NaN and infinities.
  void add_finite(const T* x, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const vu m = magnitude_bits(load(x + i, n - i));
      part_[0] = larger(part_[0], m < kInfinity ? m : vu{});
    }
  }
  uint32_t bits() const {
    const vu all = larger(larger(part_[0], part_[1]), larger(part_[2], part_[3]));
    return horizontal(all, [](vu a, vu b) { return larger(a, b); });
  }

 private:
  vu part_[4] = {};
};

#if defined(__AVX512BW__)
// bf16 in words, two to a lane.
template <>
class Largest<uint16_t> {
 public:
  void add(const uint16_t* x, int64_t n) {
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
      part_[0] = words(part_[0], _mm512_loadu_si512(x + i));
      part_[1] = words(part_[1], _mm512_loadu_si512(x + i + 32));
    }
    for (; i < n; i += 32) {
      const __mmask32 there = n - i >= 32 ? 0xffffffffu : (1u << (n - i)) - 1;
      part_[0] = words(part_[0], _mm512_maskz_loadu_epi16(there, x + i));
    }
  }
  void add_finite(const uint16_t* x, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const vu m = magnitude_bits(load(x + i, n - i));
      part_[0] = words(part_[0], bits_as<__m512i>(m < kInfinity ? m >> 16 : vu{}));
    }
  }
  uint32_t bits() const {
    const __m512i all = _mm512_maskz_max_epu16(~0u, part_[0], part_[1]);
    const __m256i half = _mm256_max_epu16(_mm512_maskz_extracti64x4_epi64(0xf, all, 1), _mm512_maskz_extracti64x4_epi64(0xf, all, 0));
    const __m128i quarter = _mm_max_epu16(_mm256_extracti128_si256(half, 1), _mm256_castsi256_si128(half));
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
    return (~static_cast<uint32_t>(_mm_cvtsi128_si32(least)) & 0xffffu) << 16;
  }

 private:
  static __m512i words(__m512i largest, __m512i x) {
    return _mm512_maskz_max_epu16(~0u, largest, _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)));
  }
  __m512i part_[2] = {};
};
#endif

// The same of the finite elements of one run; whether all are.
template <class T>
inline uint32_t largest_of_run(const T* x, int64_t n, bool& finite) {
  Largest<T> all;
  all.add(x, n);
  finite = all.bits() < kInfinity;
  if (finite) return all.bits();
  Largest<T> some;
  some.add_finite(x, n);
  return some.bits();
}

struct Scales {
  vf scale, inverse;
};
// Of 16 tiles whose largest finite magnitudes are amax.
inline Scales scales_of(vf amax, float largest, bool power_of_two) {
  const vi empty = amax == vf{};
  const vf a = vmax(amax, splat(largest * 0x1p-126f));
  Scales s{a / largest, largest / a};
  if (power_of_two) {
    const uint32_t of = bits_as<uint32_t>(largest);
    const vu bits = bits_as<vu>(a);
    const vu exponent = (bits >> 23) - (of >> 23) - bits_as<vu>((bits & 0x7fffffu) > (of & 0x7fffffu));
    s = {bits_as<vf>((exponent + 127) << 23), bits_as<vf>((127 - exponent) << 23)};
  }
  return {empty ? splat(1) : s.scale, empty ? splat(1) : s.inverse};
}

}  // namespace
