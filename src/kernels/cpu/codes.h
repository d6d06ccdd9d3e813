// FP8 codes to the numbers they stand for, exactly: bf16 holds every e4m3 and every e5m2.
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "core/tensor.h"
#include "kernels/cpu/simd.h"

namespace {

// Where the exponent of a code must move to stand at f32's, what then repairs its bias, and the first magnitude that is no number.
struct CodeFormat {
  int shift;
  float bias;
  uint32_t first_special, first_nan;
};
constexpr CodeFormat kE4m3{20, 0x1p120f, 0x7f, 0x7f}, kE5m2{21, 0x1p112f, 0x7c, 0x7d};
inline const CodeFormat& format_of(finback::core::DType t) { return t == finback::core::DType::e5m2 ? kE5m2 : kE4m3; }

#if defined(__AVX512VBMI__)
// The bf16 of each magnitude, as its low and its high bytes: a table of 128 bytes is two registers, looked up 64 codes at a time.
struct CodeTable {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
};
constexpr CodeTable code_table(const CodeFormat& f) {
  CodeTable t{};
  for (uint32_t code = 0; code < 128; ++code) {
    uint32_t bits = code >= f.first_nan ? 0x7fc00000u : 0x7f800000u;
    if (code < f.first_special) bits = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, code << f.shift) * f.bias);
    t.low[code] = static_cast<uint8_t>(bits >> 16);
    t.high[code] = static_cast<uint8_t>(bits >> 24);
  }
  return t;
}
constexpr CodeTable kE4m3Table = code_table(kE4m3), kE5m2Table = code_table(kE5m2);

// Byte i of pairs(): which column, and from 64 on which of the next row.
struct PairOrder {
  alignas(64) uint8_t index[64];
};
constexpr PairOrder pair_order() {
  PairOrder order{};
  for (int i = 0; i < 64; ++i) order.index[i] = static_cast<uint8_t>(i / 16 * 4 + i / 8 % 2 * 16 + i / 2 % 4 + i % 2 * 64);
  return order;
}
constexpr PairOrder kPairOrder = pair_order();

struct CodeReader {
  __m512i low0, low1, high0, high1;
  explicit CodeReader(finback::core::DType t) {
    const CodeTable& table = t == finback::core::DType::e5m2 ? kE5m2Table : kE4m3Table;
    low0 = _mm512_load_si512(table.low);
    low1 = _mm512_load_si512(table.low + 64);
    high0 = _mm512_load_si512(table.high);
    high1 = _mm512_load_si512(table.high + 64);
  }
  // Of each of the four quarters of a register, codes 0 … 7 as bf16 in `first`, 8 … 15 in `second`.
  void read(__m512i codes, __m512i& first, __m512i& second) const {
    const __m512i low = _mm512_permutex2var_epi8(low0, codes, low1);  // (the top bit of an index is ignored)
    const __m512i magnitude = _mm512_permutex2var_epi8(high0, codes, high1);
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);  // m | (c & 80)
    first = _mm512_maskz_unpacklo_epi8(~__mmask64{0}, low, high);
    second = _mm512_maskz_unpackhi_epi8(~__mmask64{0}, low, high);
  }
  // 64 codes in order.
  void read_in_order(__m512i codes, __m512i& first, __m512i& second) const {
    const __m512i halves = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    read(_mm512_maskz_permutexvar_epi64(0xff, halves, codes), first, second);
  }
  // Pairs of codes of 64 columns, from a row and the next one: 16 columns a register.
  void pairs(__m512i row, __m512i next, __m512i (&to)[4]) const {
    for (int half = 0; half < 2; ++half) {
      // As read() splits them: of each quarter, the pairs of four columns of one register, then of the other.
      const __m512i from = _mm512_add_epi8(_mm512_load_si512(kPairOrder.index), _mm512_set1_epi8(static_cast<char>(32 * half)));
      read(_mm512_permutex2var_epi8(row, from, next), to[2 * half], to[2 * half + 1]);
    }
  }
  // to[0 … count-1], and zeros up to a multiple of 64.
  void row(const uint8_t* from, int64_t count, uint16_t* to) const {
    for (int64_t i = 0; i < count; i += 64) {
      const __mmask64 mask = count - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (count - i)) - 1;
      __m512i first, second;
      read_in_order(_mm512_maskz_loadu_epi8(mask, from + i), first, second);
      _mm512_storeu_si512(to + i, first);
      _mm512_storeu_si512(to + i + 32, second);
    }
  }
};
#endif

// 16 codes as floats.
typedef uint8_t vb __attribute__((vector_size(16)));
inline vf read_codes(const uint8_t* from, const CodeFormat& f) {
  vb bytes;
  memcpy(&bytes, from, sizeof bytes);
  const vu code = __builtin_convertvector(bytes, vu), magnitude = code & 0x7f;
  const vu number = bits_as<vu>(bits_as<vf>(magnitude << f.shift) * f.bias);
  const vu special = magnitude >= f.first_nan ? vu{} + 0x7fc00000u : vu{} + 0x7f800000u;
  return bits_as<vf>((magnitude >= f.first_special ? special : number) | (code & 0x80) << 24);
}

// Without registers of 64 bytes to look up in: floats, or bf16 cut from them, which loses nothing.
struct PlainCodeReader {
  const CodeFormat& format;
  explicit PlainCodeReader(finback::core::DType t) : format(format_of(t)) {}
  template <class T>
  void row(const uint8_t* from, int64_t count, T* to) const {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(to + i, read_codes(from + i, format));
    for (; i % 64 != 0 || i < count; i += kLanes) {
      uint8_t rest[kLanes] = {};
      if (i < count) memcpy(rest, from + i, static_cast<size_t>(count - i < kLanes ? count - i : kLanes));
      store(to + i, read_codes(rest, format));
    }
  }
};

// Packed codes of a strip of 16 columns: 64 bytes hold two units of pairs (of each quarter, 4 columns of the first, then of the second),
// or four units of one code a column. Where code k of column j of the strip stands, and how they are read, as 32-bit units.
template <bool kPairs>
constexpr int64_t packed_code(int64_t k, int64_t j) {
  if (!kPairs) return k * 16 + j;
  return k / 4 * 64 + j / 4 * 16 + k / 2 % 2 * 8 + j % 4 * 2 + k % 2;
}
template <bool kPairs, int kUnitWords>
inline void read_strip(const uint8_t* codes, int64_t units, finback::core::DType dtype, uint32_t* to) {
#if defined(__AVX512VBMI__)
  if constexpr (kPairs) {
    const CodeReader reader(dtype);
    for (int64_t u = 0; u < units; u += 2, codes += 64, to += int64_t{2} * kUnitWords) {
      __m512i first, second;
      __builtin_prefetch(codes + 4096);  // codes are decoded more slowly than read: the machine alone does not look far enough ahead
      reader.read(_mm512_loadu_si512(codes), first, second);
      _mm512_storeu_si512(to, first);
      if (u + 1 < units) _mm512_storeu_si512(to + kUnitWords, second);
    }
    return;
  }
#endif
  const CodeFormat& format = format_of(dtype);
  for (int64_t u = 0; u < units; ++u, codes += 16, to += kUnitWords) store(reinterpret_cast<float*>(to), read_codes(codes, format));
}

// Reads a row of codes as T: uint16_t (bf16) where the machine multiplies pairs, else float.
template <class T>
struct RowReader : PlainCodeReader {
  using PlainCodeReader::PlainCodeReader;
};
#if defined(__AVX512VBMI__)
template <>
struct RowReader<uint16_t> : CodeReader {
  using CodeReader::CodeReader;
};
#endif

}  // namespace
