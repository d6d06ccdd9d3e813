#include "core/tensor.h"

#include "core/error.h"

#include <cstdlib>

namespace finback::core {

const char* name_of(DType t) {
  switch (t) {
    case DType::f64:
      return "f64";
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::e4m3:
      return "e4m3";
    case DType::e5m2:
      return "e5m2";
    case DType::i64:
      return "i64";
    case DType::i32:
      return "i32";
    case DType::u16:
      return "u16";
    case DType::u8:
      return "u8";
  }
  return "?";
}

void range_failed(const char* what, std::int64_t begin, std::int64_t count, std::int64_t of) {
  FB_CHECK(false, "{} {}+{} of {}", what, begin, count, of);
  std::abort();
}

}  // namespace finback::core
