// FP8 E4M3 as the published checkpoints hold it (OCP's; PyTorch's float8_e4m3fn): bias 7, numbers from 2^-9 (subnormal) to 448,
// no infinities, one NaN of each sign (0x7f, 0xff).
//
// From a float: rounded once, to nearest, ties to even; beyond 448 a finite number saturates; NaN and infinities become NaN;
// the sign is kept throughout, that of zero too.
#pragma once

#include "numerics/small_float.h"

namespace finback::numerics {

struct e4m3 {
  using Small = SmallFloat<4, 3>;
  static constexpr float kLargest = 448;
  static constexpr std::uint8_t kLargestCode = 0x7e, kNan = 0x7f;

  std::uint8_t bits = 0;

  e4m3() = default;
  explicit constexpr e4m3(float x) {
    const std::uint32_t code = is_finite(x) ? Small::magnitude(x) : kNan;
    bits = static_cast<std::uint8_t>(sign_bit(x) << 7 | (is_finite(x) && code > kLargestCode ? kLargestCode : code));
  }
  static constexpr e4m3 from_bits(std::uint8_t bits) {
    e4m3 x;
    x.bits = bits;
    return x;
  }
  explicit constexpr operator float() const {
    return (bits & 0x7f) == kNan ? std::bit_cast<float>(0x7fc00000u | std::uint32_t{bits & 0x80u} << 24) : Small::value(bits);
  }
  explicit constexpr operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};
static_assert(sizeof(e4m3) == 1);

}  // namespace finback::numerics
