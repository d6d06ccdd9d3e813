// Views of matrices. A view never owns: memory comes from an Arena, a mapped file or the caller.
// Row-major, the last dimension contiguous, `stride` elements from one row to the next.
// Plain data: kernels that are compiled once per instruction set include this (src/kernels/cpu/isa.cmake).
#pragma once

#include <cstddef>
#include <cstdint>

namespace finback::core {

enum class DType : std::uint8_t { f64, f32, bf16, f16, e4m3, e5m2, i64, i32, u16, u8 };

constexpr std::int64_t size_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
    case DType::u16:
      return 2;
    case DType::e4m3:
    case DType::e5m2:
    case DType::u8:
      return 1;
  }
  return 0;
}

const char* name_of(DType t);

[[noreturn]] void range_failed(const char* what, std::int64_t begin, std::int64_t count, std::int64_t of);

struct ConstMat {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0, cols = 0, stride = 0;

  template <class T>
  const T* row(std::int64_t r) const {
    return static_cast<const T*>(data) + r * stride;
  }
  const void* at(std::int64_t r, std::int64_t c) const { return static_cast<const std::byte*>(data) + (r * stride + c) * size_of(dtype); }
  ConstMat columns(std::int64_t begin, std::int64_t count) const {
    if (begin < 0 || count < 0 || begin + count > cols) range_failed("columns", begin, count, cols);
    return {at(0, begin), dtype, rows, count, stride};
  }
  ConstMat row_range(std::int64_t begin, std::int64_t count) const {
    if (begin < 0 || count < 0 || begin + count > rows) range_failed("rows", begin, count, rows);
    return {at(begin, 0), dtype, count, cols, stride};
  }
  std::int64_t size() const { return rows * cols; }
  bool contiguous() const { return stride == cols || rows <= 1; }
  explicit operator bool() const { return data != nullptr; }
};

struct Mat {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0, cols = 0, stride = 0;

  operator ConstMat() const { return {data, dtype, rows, cols, stride}; }
  template <class T>
  T* row(std::int64_t r) const {
    return static_cast<T*>(data) + r * stride;
  }
  void* at(std::int64_t r, std::int64_t c) const { return static_cast<std::byte*>(data) + (r * stride + c) * size_of(dtype); }
  Mat columns(std::int64_t begin, std::int64_t count) const {
    if (begin < 0 || count < 0 || begin + count > cols) range_failed("columns", begin, count, cols);
    return {at(0, begin), dtype, rows, count, stride};
  }
  Mat row_range(std::int64_t begin, std::int64_t count) const {
    if (begin < 0 || count < 0 || begin + count > rows) range_failed("rows", begin, count, rows);
    return {at(begin, 0), dtype, count, cols, stride};
  }
  std::int64_t size() const { return rows * cols; }
  std::int64_t bytes() const { return size() * size_of(dtype); }
  bool contiguous() const { return stride == cols || rows <= 1; }
  explicit operator bool() const { return data != nullptr; }
};

// A contiguous matrix over memory the caller owns.
inline Mat mat(void* data, DType dtype, std::int64_t rows, std::int64_t cols) { return {data, dtype, rows, cols, cols}; }
inline ConstMat const_mat(const void* data, DType dtype, std::int64_t rows, std::int64_t cols) { return {data, dtype, rows, cols, cols}; }

}  // namespace finback::core
