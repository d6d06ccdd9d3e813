// IEEE binary16, which old checkpoints hold. Read only: nothing of ours is stored in it.
#pragma once

#include <bit>
#include <cstdint>

namespace finback::numerics {

struct f16 {
  std::uint16_t bits = 0;

  explicit operator float() const {
    const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16, magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00)  // infinity, NaN
      return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
    if (magnitude >= 0x400) return std::bit_cast<float>(sign | ((magnitude << 13) + (std::uint32_t{127 - 15} << 23)));
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -subnormal : subnormal;
  }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};
static_assert(sizeof(f16) == 2);

}  // namespace finback::numerics
