// How the reference twins read and write an element of any storage type: as a double, rounded once on the way out.
#pragma once

#include "core/error.h"
#include "kernels/kernels.h"
#include "numerics/bf16.h"
#include "numerics/e4m3.h"
#include "numerics/e5m2.h"

namespace finback::kernels::reference_kernels {

inline double get(ConstMat m, std::int64_t r, std::int64_t c) {
  switch (m.dtype) {
    case DType::f64:
      return m.row<double>(r)[c];
    case DType::f32:
      return static_cast<double>(m.row<float>(r)[c]);
    case DType::bf16:
      return static_cast<double>(m.row<numerics::bf16>(r)[c]);
    case DType::e4m3:
      return static_cast<double>(m.row<numerics::e4m3>(r)[c]);
    case DType::e5m2:
      return static_cast<double>(m.row<numerics::e5m2>(r)[c]);
    case DType::i32:
      return m.row<std::int32_t>(r)[c];
    case DType::u8:
      return m.row<std::uint8_t>(r)[c];
    default:
      FB_CHECK(false, "reference kernels do not read {}", core::name_of(m.dtype));
      return 0;
  }
}

inline void put(Mat m, std::int64_t r, std::int64_t c, double value) {
  switch (m.dtype) {
    case DType::f64:
      m.row<double>(r)[c] = value;
      return;
    case DType::f32:
      m.row<float>(r)[c] = static_cast<float>(value);
      return;
    case DType::bf16:
      m.row<numerics::bf16>(r)[c] = numerics::bf16(value);
      return;
    case DType::e4m3:
      m.row<numerics::e4m3>(r)[c] = numerics::e4m3(static_cast<float>(value));
      return;
    case DType::e5m2:
      m.row<numerics::e5m2>(r)[c] = numerics::e5m2(static_cast<float>(value));
      return;
    case DType::i32:
      m.row<std::int32_t>(r)[c] = static_cast<std::int32_t>(value);
      return;
    default:
      FB_CHECK(false, "reference kernels do not write {}", core::name_of(m.dtype));
  }
}

// What `value` becomes when it is stored as t and read again.
inline double round_to(DType t, double value) {
  switch (t) {
    case DType::f32:
      return static_cast<double>(static_cast<float>(value));
    case DType::bf16:
      return static_cast<double>(numerics::bf16(value));
    default:
      return value;
  }
}

}  // namespace finback::kernels::reference_kernels
