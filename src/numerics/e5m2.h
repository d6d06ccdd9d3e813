// FP8 E5M2 (OCP's; PyTorch's float8_e5m2), the upper byte of a binary16: bias 15, numbers from 2^-16 (subnormal) to 57344,
// infinities (0x7c), NaNs above them.
//
// From a float: rounded once, to nearest, ties to even; beyond 57344 a finite number saturates; an infinity stays one and NaN
// becomes 0x7f; the sign is kept throughout.
#pragma once

#include "numerics/small_float.h"

namespace finback::numerics {

struct e5m2 {
  using Small = SmallFloat<5, 2>;
  static constexpr float kLargest = 57344;
  static constexpr std::uint8_t kLargestCode = 0x7b, kInfinity = 0x7c, kNan = 0x7f;

  std::uint8_t bits = 0;

  e5m2() = default;
  explicit constexpr e5m2(float x) {
    const std::uint32_t code = is_nan(x) ? kNan : is_finite(x) ? Small::magnitude(x) : kInfinity;
    bits = static_cast<std::uint8_t>(sign_bit(x) << 7 | (is_finite(x) && code > kLargestCode ? kLargestCode : code));
  }
  static constexpr e5m2 from_bits(std::uint8_t bits) {
    e5m2 x;
    x.bits = bits;
    return x;
  }
  explicit constexpr operator float() const {
    const std::uint32_t sign = std::uint32_t{bits & 0x80u} << 24, magnitude = bits & 0x7fu;
    if (magnitude < kInfinity) return Small::value(bits);
    return std::bit_cast<float>(sign | (magnitude == kInfinity ? 0x7f800000u : 0x7fc00000u));
  }
  explicit constexpr operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};
static_assert(sizeof(e5m2) == 1);

}  // namespace finback::numerics
