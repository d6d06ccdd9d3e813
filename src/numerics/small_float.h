// Floats of few bits, IEEE's way: a sign, `Exponent` bits of exponent with bias 2^(Exponent-1) − 1, `Fraction` bits of fraction;
// an exponent field of 0 marks subnormals. What the highest codes mean (infinity, NaN, numbers) is the format's own affair:
// e4m3.h, e5m2.h, e5m6.h.
#pragma once

#include <bit>
#include <cstdint>

namespace finback::numerics {

// 2^n, -126 <= n <= 127.
constexpr float power_of_two(int n) { return std::bit_cast<float>(static_cast<std::uint32_t>(n + 127) << 23); }

template <int Exponent, int Fraction>
struct SmallFloat {
  static constexpr int kFraction = Fraction;
  static constexpr int kLeastExponent = 2 - (1 << (Exponent - 1));  // of normal numbers; subnormals share it
  static constexpr std::uint32_t kSign = 1u << (Exponent + Fraction);

  // The code of |x| in one rounding, to nearest, ties to even. |x| is finite; from 2^(Exponent field all ones) on the result
  // runs on as if there were more exponents, and the caller saturates.
  static constexpr std::uint32_t magnitude(float x) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
    const int exponent = static_cast<int>(u >> 23) - 127;
    if (exponent < kLeastExponent - Fraction - 1) return 0;  // below half the least subnormal (and all subnormal floats)
    const std::uint32_t significand = (u & 0x7fffffu) | 0x800000u;
    const int below = exponent < kLeastExponent ? kLeastExponent - exponent : 0;
    const int drop = 23 - Fraction + below;
    const std::uint32_t kept = significand >> drop, rest = significand & ((1u << drop) - 1), half = 1u << (drop - 1);
    const std::uint32_t rounded = kept + (rest > half || (rest == half && (kept & 1)) ? 1 : 0);
    return (static_cast<std::uint32_t>(exponent + below - kLeastExponent) << Fraction) + rounded;  // a carry raises the exponent
  }

  // The number that a code stands for, exactly; the exponent field of all ones read as a number like the others.
  static constexpr float value(std::uint32_t code) {
    const std::uint32_t field = (code & (kSign - 1)) >> Fraction, fraction = code & ((1u << Fraction) - 1);
    const std::uint32_t significand = field ? fraction | (1u << Fraction) : fraction;
    const int exponent = kLeastExponent - Fraction + (field ? static_cast<int>(field) - 1 : 0);
    const float x = static_cast<float>(significand) * power_of_two(exponent);
    return code & kSign ? -x : x;
  }
};

constexpr bool is_finite(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }
constexpr bool is_nan(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7fffffffu) > 0x7f800000u; }
constexpr std::uint32_t sign_bit(float x) { return std::bit_cast<std::uint32_t>(x) >> 31; }

}  // namespace finback::numerics
