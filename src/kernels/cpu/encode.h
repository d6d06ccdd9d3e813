// Codes of the narrow formats in vectors, 16 numbers at a time: what numerics/small_float.h does one by one, bit for bit.
// Included only by files that are compiled per instruction set.
#pragma once

#include "kernels/cpu/simd.h"
#include "numerics/e4m3.h"
#include "numerics/e5m2.h"
#include "numerics/e5m6.h"

namespace {

using finback::numerics::e4m3;
using finback::numerics::e5m2;
using finback::numerics::e5m6;

typedef uint8_t vb __attribute__((vector_size(16)));
typedef uint8_t vb_unaligned __attribute__((vector_size(16), aligned(1)));

inline vu load_bytes(const uint8_t* p, int64_t n) {
  vb bytes = {};
  if (n >= kLanes) bytes = *reinterpret_cast<const vb_unaligned*>(p);
  else memcpy(&bytes, p, static_cast<size_t>(n));
  return __builtin_convertvector(bytes, vu);
}
// The low bytes of the first n lanes.
inline void store_bytes(uint8_t* p, vu x, int64_t n) {
  const vb bytes = __builtin_convertvector(x, vb);
  if (n >= kLanes) *reinterpret_cast<vb_unaligned*>(p) = bytes;
  else memcpy(p, &bytes, static_cast<size_t>(n));
}

// Rounds |y|, given without its sign, and returns its code plus kExcess<Format> in the low bits, with other bits above them. |y| is
// not beyond the format's largest number by more than rounding error.
//
// 2^(e + 23 − F) is added to a number with exponent e: of the sum's fraction F bits and the hidden one are left, rounded to nearest
// even, as a small integer. Taking at least the least exponent for e, the same sum rounds subnormals. The code is (e − least) · 2^F
// plus that integer, and e is in the sum's exponent field.
template <class Format>
inline vu rounded_code(vf magnitude) {
  constexpr int kDrop = 23 - Format::Small::kFraction;
  const vf power =
      vmax(bits_as<vf>(bits_as<vu>(magnitude) & 0x7f800000u), splat(finback::numerics::power_of_two(Format::Small::kLeastExponent)));
  const vu sum = bits_as<vu>(madd(power, splat(finback::numerics::power_of_two(kDrop)), magnitude));
  return (sum >> kDrop) + sum;
}
template <class Format>
constexpr uint32_t kExcess =
    static_cast<uint32_t>(23 - Format::Small::kFraction + 127 + Format::Small::kLeastExponent) << Format::Small::kFraction;

// The codes of x · inverse, rounded to f32 and then to the format; where x is NaN or infinite the NaN code of its sign, unless all
// of x are known to be finite.
template <class Format>
inline vu codes_of(vf x, vf inverse, bool finite) {
  constexpr uint32_t kSign = Format::Small::kSign;
  const vu bits = bits_as<vu>(x), magnitude = bits & 0x7fffffffu;
  vu code = (rounded_code<Format>(bits_as<vf>(magnitude) * inverse) - kExcess<Format>)&(kSign - 1);
  if (!finite) code = magnitude < 0x7f800000u ? code : vu{} + Format::kNan;
  return code | (bits >> 31) * kSign;
}

// The numbers of codes, exactly; NaNs as the scalar conversions give them.
template <class Format>
inline vf numbers_of(vu code) {
  constexpr int kFraction = Format::Small::kFraction, kLeast = Format::Small::kLeastExponent;
  constexpr uint32_t kSign = Format::Small::kSign, kHidden = 1u << kFraction;
  const vu magnitude = code & (kSign - 1);
  const vu normal = (magnitude << (23 - kFraction)) + (static_cast<uint32_t>(kLeast + 126) << 23);
  const vf subnormal = bits_as<vf>(normal + (1u << 23)) - finback::numerics::power_of_two(kLeast);  // with a hidden bit, and without it
  vu bits = magnitude < kHidden ? bits_as<vu>(subnormal) : normal;
  if constexpr (Format::kLargestCode + 1 == Format::kNan) {
    bits = magnitude == Format::kNan ? vu{} + 0x7fc00000u : bits;
  } else {
    const vu beyond = magnitude == Format::kLargestCode + 1 ? vu{} + 0x7f800000u : vu{} + 0x7fc00000u;
    bits = magnitude > Format::kLargestCode ? beyond : bits;
  }
  return bits_as<vf>(bits | (code & kSign) * (0x80000000u / kSign));
}

// 64 numbers at once, all finite.
#if defined(__AVX512BW__)
typedef uint16_t vw __attribute__((vector_size(64)));  // 32 of bf16

// Byte j of the order in which pack() leaves its bytes, as a shuffle within 128 bits and one across them.
struct Order {
  alignas(64) uint8_t within[64];
  alignas(64) uint32_t across[16];
};
// Lane l of 128 bits holds of each vector four lanes, 4l … 4l+3, byte by byte as [v0, v2, v1, v3].
constexpr Order order_of(bool pairs) {
  Order o{};
  for (uint8_t i = 0; i < 64; ++i) {
    const uint8_t j = i % 16;  // of a lane's bytes; first all of v0 then v1, v2, v3; or v0 and v1 in turn, then v2 and v3
    const uint8_t source = pairs ? static_cast<uint8_t>(j / 8 * 2 + j % 2) : j / 4, lane = pairs ? j % 8 / 2 : j % 4;
    constexpr uint8_t kPlace[4] = {0, 2, 1, 3};
    o.within[i] = static_cast<uint8_t>(4 * lane + kPlace[source]);
  }
  for (uint32_t i = 0; i < 16; ++i) o.across[i] = pairs ? i % 8 / 2 * 4 + i / 8 * 2 + i % 2 : i % 4 * 4 + i / 4;
  return o;
}
inline constexpr Order kInTurn = order_of(false), kInPairs = order_of(true);

// Even bytes of a and odd bytes of b; even words of a and odd words of b.
inline vu odd_bytes(vu a, vu b) {
  return bits_as<vu>(_mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaau, bits_as<__m512i>(a), bits_as<__m512i>(b)));
}
inline vu odd_words(vu a, vu b) { return bits_as<vu>(_mm512_mask_blend_epi16(0xaaaaaaaau, bits_as<__m512i>(a), bits_as<__m512i>(b))); }

// The low bytes of v0 … v3 with the signs of `sign` (bit 7 of each byte, in the order of the bytes), `excess` taken off, put in order.
inline void store_codes(uint8_t* codes, vu v0, vu v1, vu v2, vu v3, vu sign, uint8_t excess, const Order& order) {
  typedef uint8_t v64b __attribute__((vector_size(64)));
  const vu bytes = odd_bytes(odd_words(v0, v1 << 16), odd_words(v2, v3 << 16) << 8);
  const vu plain = bits_as<vu>(bits_as<v64b>(bytes) - excess);
  const __m512i signed_codes = bits_as<__m512i>((plain & 0x7f7f7f7fu) | (sign & 0x80808080u));
  const __m512i within = _mm512_maskz_shuffle_epi8(~0ull, signed_codes, *reinterpret_cast<const __m512i*>(order.within));
  _mm512_storeu_si512(codes, _mm512_maskz_permutexvar_epi32(0xffff, *reinterpret_cast<const __m512i*>(order.across), within));
}

// The codes of x · inverse for 64 finite numbers: x0 holds the first 16, and so on; or, in pairs, x0 and x1 the even and the odd ones
// of the first 32.
template <class Format>
inline void store_codes_of_64(vf x0, vf x1, vf x2, vf x3, vf i0, vf i1, vf i2, vf i3, uint8_t* codes, const Order& order = kInTurn) {
  const vu b0 = bits_as<vu>(x0), b1 = bits_as<vu>(x1), b2 = bits_as<vu>(x2), b3 = bits_as<vu>(x3);
  const auto code = [](vu bits, vf inverse) { return rounded_code<Format>(bits_as<vf>(bits & 0x7fffffffu) * inverse); };
  store_codes(codes, code(b0, i0), code(b1, i1), code(b2, i2), code(b3, i3),
              odd_bytes(odd_words(b0 >> 24, b1 >> 8), odd_words(b2 >> 16, b3)), static_cast<uint8_t>(kExcess<Format>), order);
}
template <class Format>
inline void store_codes_of_64(const float* x, vf inverse, uint8_t* codes) {
  store_codes_of_64<Format>(load(x), load(x + 16), load(x + 32), load(x + 48), inverse, inverse, inverse, inverse, codes);
}
// bf16 is not widened but taken apart: the even ones shifted up, the odd ones where they stand.
template <class Format>
inline void store_codes_of_64(const uint16_t* x, vf inverse, uint8_t* codes) {
  const vu b0 = bits_as<vu>(_mm512_loadu_si512(x)), b1 = bits_as<vu>(_mm512_loadu_si512(x + 32));
  const vu m0 = b0 & 0x7fff7fffu, m1 = b1 & 0x7fff7fffu;
  const auto even = [&](vu m) { return rounded_code<Format>(bits_as<vf>(m << 16) * inverse); };
  const auto odd = [&](vu m) { return rounded_code<Format>(bits_as<vf>(m & 0xffff0000u) * inverse); };
  store_codes(codes, even(m0), odd(m0), even(m1), odd(m1), odd_bytes(bits_as<vu>(bits_as<vw>(b0) >> 8), b1),
              static_cast<uint8_t>(kExcess<Format>), kInPairs);
}
#endif

}  // namespace
