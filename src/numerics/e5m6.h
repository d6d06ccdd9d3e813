// E5M6: 12 bits for activations that are stored for backward [V3 §3.3.3]. Its codes are not published; ours is a binary16 whose
// four last fraction bits are dropped to nearest even: sign, 5 bits of exponent with bias 15, 6 of fraction; numbers from 2^-20
// (subnormal) to 65024, infinities (0x7c0), NaNs above them.
//
// From a float: rounded once, to nearest, ties to even; beyond 65024 a finite number saturates; an infinity stays one and NaN
// becomes 0x7e0; the sign is kept throughout.
//
// Two codes lie in three bytes, the first in the low 12 bits of the little-endian 24; after an odd count the last is 0.
#pragma once

#include "numerics/small_float.h"

namespace finback::numerics {

struct e5m6 {
  using Small = SmallFloat<5, 6>;
  static constexpr float kLargest = 65024;
  static constexpr std::uint16_t kLargestCode = 0x7bf, kInfinity = 0x7c0, kNan = 0x7e0;

  std::uint16_t bits = 0;  // the low 12

  e5m6() = default;
  explicit constexpr e5m6(float x) {
    const std::uint32_t code = is_nan(x) ? kNan : is_finite(x) ? Small::magnitude(x) : kInfinity;
    bits = static_cast<std::uint16_t>(sign_bit(x) << 11 | (is_finite(x) && code > kLargestCode ? kLargestCode : code));
  }
  static constexpr e5m6 from_bits(std::uint16_t bits) {
    e5m6 x;
    x.bits = bits;
    return x;
  }
  explicit constexpr operator float() const {
    const std::uint32_t sign = std::uint32_t{bits & 0x800u} << 20, magnitude = bits & 0x7ffu;
    if (magnitude < kInfinity) return Small::value(bits);
    return std::bit_cast<float>(sign | (magnitude == kInfinity ? 0x7f800000u : 0x7fc00000u));
  }
  explicit constexpr operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

// Codes a and b as three bytes, and back.
constexpr void pack_pair(e5m6 a, e5m6 b, std::uint8_t* three) {
  three[0] = static_cast<std::uint8_t>(a.bits);
  three[1] = static_cast<std::uint8_t>(a.bits >> 8 | b.bits << 4);
  three[2] = static_cast<std::uint8_t>(b.bits >> 4);
}
constexpr e5m6 first_of_pair(const std::uint8_t* three) {
  return e5m6::from_bits(static_cast<std::uint16_t>(three[0] | (three[1] & 0xf) << 8));
}
constexpr e5m6 second_of_pair(const std::uint8_t* three) {
  return e5m6::from_bits(static_cast<std::uint16_t>(three[1] >> 4 | three[2] << 4));
}

}  // namespace finback::numerics
