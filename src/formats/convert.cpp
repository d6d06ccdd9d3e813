#include "formats/convert.h"

#include "core/error.h"
#include "numerics/bf16.h"
#include "numerics/f16.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace finback::formats {
namespace {

using core::DType;
using numerics::bf16;
using numerics::f16;

template <class From, class To>
void convert(const void* in, void* out, std::int64_t n) {
  if constexpr (std::is_same_v<From, To>) {
    if (in != out) std::memcpy(out, in, static_cast<std::size_t>(n) * sizeof(To));
  } else {
    // Every type but f64 is exact as a float, which converts and vectorises simplest.
    using Through = std::conditional_t<std::is_same_v<From, double>, double, float>;
    const auto* from = static_cast<const From*>(in);
    auto* to = static_cast<To*>(out);
    for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(static_cast<Through>(from[i]));
  }
}

template <class From>
void convert_from(const void* in, DType to, void* out, std::int64_t n) {
  switch (to) {
    case DType::f64:
      return convert<From, double>(in, out, n);
    case DType::f32:
      return convert<From, float>(in, out, n);
    case DType::bf16:
      return convert<From, bf16>(in, out, n);
    default:
      FB_CHECK(false, "to {}", core::name_of(to));
  }
}

// A value is not finite when all bits of its exponent (e4m3: of its magnitude) are set. Counted in the values' own width over short
// runs, which becomes a few vector instructions.
template <class Bits>
std::int64_t count_all_set(const void* values, std::int64_t n, Bits mask) {
  constexpr std::int64_t kRun = 128;
  const auto* x = static_cast<const Bits*>(values);
  std::int64_t total = 0;
  for (std::int64_t begin = 0; begin < n; begin += kRun) {
    const std::int64_t end = std::min(begin + kRun, n);
    Bits count = 0;
    for (std::int64_t i = begin; i < end; ++i) count = static_cast<Bits>(count + ((x[i] & mask) == mask));
    total += static_cast<std::int64_t>(count);
  }
  return total;
}

}  // namespace

std::int64_t count_non_finite(DType dtype, const void* values, std::int64_t n) {
  switch (dtype) {
    case DType::f64:
      return count_all_set<std::uint64_t>(values, n, 0x7ff0000000000000u);
    case DType::f32:
      return count_all_set<std::uint32_t>(values, n, 0x7f800000u);
    case DType::bf16:
      return count_all_set<std::uint16_t>(values, n, 0x7f80);
    case DType::f16:
      return count_all_set<std::uint16_t>(values, n, 0x7c00);
    case DType::e4m3:
      return count_all_set<std::uint8_t>(values, n, 0x7f);
    case DType::e5m2:
      return count_all_set<std::uint8_t>(values, n, 0x7c);
    default:
      FB_CHECK(false, "{}", core::name_of(dtype));
  }
}

void convert_weights(DType from, const void* in, DType to, void* out, std::int64_t n) {
  switch (from) {
    case DType::f64:
      return convert_from<double>(in, to, out, n);
    case DType::f32:
      return convert_from<float>(in, to, out, n);
    case DType::bf16:
      return convert_from<bf16>(in, to, out, n);
    case DType::f16:
      return convert_from<f16>(in, to, out, n);
    default:
      FB_CHECK(false, "from {}", core::name_of(from));
  }
}

}  // namespace finback::formats
