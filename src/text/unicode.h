// Code points and the classes that pre-tokenizers ask for: Unicode 16.0, the version of the engine in the compared
// `tokenizers` package (scripts/make_unicode_tables.py makes the table, scripts/witness_tokenizer.py compares it).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace finback::text {

using Classes = std::uint16_t;  // a set of the bits below

inline constexpr Classes kLu = 1, kLl = 2, kLt = 4, kLm = 8, kLo = 16, kMark = 32, kNumber = 64, kPunctuation = 128, kSymbol = 256;
inline constexpr Classes kSpace = 512;     // White_Space, which is \s
inline constexpr Classes kHan = 1024;      // script Han
inline constexpr Classes kNewline = 2048;  // carriage return and line feed
inline constexpr Classes kLetter = kLu | kLl | kLt | kLm | kLo;

// The generated table: code points from `first` up to the next range's have these classes.
struct ClassRange {
  std::uint32_t first;
  Classes classes;
};
extern const ClassRange kClassRanges[];
extern const int kClassRangeCount;

inline constexpr std::uint32_t kCodePoints = 0x110000;
// The code point of a byte that is not part of valid UTF-8. It has no class, as an unassigned code point has none.
inline constexpr std::uint32_t kInvalid = 0xFFFFFFFF;

// The ranges, expanded into pages of 256 code points of which equal ones are kept once (about 200 KB).
class ClassTable {
 public:
  static const ClassTable& get();
  Classes of(std::uint32_t code) const { return code < kCodePoints ? pages_[page_[code >> 8]][code & 255] : Classes{0}; }
  Classes of_ascii(unsigned char byte) const { return ascii_[byte]; }

 private:
  ClassTable();
  std::array<Classes, 128> ascii_;
  std::array<std::uint16_t, kCodePoints / 256> page_;
  std::array<std::array<Classes, 256>, 400> pages_;
};

struct CodePoint {
  std::uint32_t code;
  std::uint32_t length;  // bytes
};

// The code point at p < end. Surrogates, overlong forms, values above 10FFFF and cut sequences are invalid, one byte at a time.
inline CodePoint decode_utf8(const char* p, const char* end) {
  const auto byte = [&](int i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(p[i])); };
  const auto follows = [&](int i) { return (byte(i) & 0xC0) == 0x80; };
  const std::uint32_t b = byte(0);
  if (b < 0x80) return {b, 1};
  const std::ptrdiff_t left = end - p;
  if (b >= 0xC2 && b < 0xE0) {
    if (left >= 2 && follows(1)) return {(b & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  } else if (b >= 0xE0 && b < 0xF0) {
    if (left >= 3 && follows(1) && follows(2)) {
      const std::uint32_t code = (b & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
      if (code >= 0x800 && (code < 0xD800 || code > 0xDFFF)) return {code, 3};
    }
  } else if (b >= 0xF0 && b < 0xF5) {
    if (left >= 4 && follows(1) && follows(2) && follows(3)) {
      const std::uint32_t code = (b & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
      if (code >= 0x10000 && code < kCodePoints) return {code, 4};
    }
  }
  return {kInvalid, 1};
}

// Bytes that no valid UTF-8 text holds.
constexpr bool never_in_utf8(unsigned char byte) { return byte == 0xC0 || byte == 0xC1 || byte >= 0xF5; }

void append_utf8(std::string& out, std::uint32_t code);

// Byte-level text: each byte as one printable code point (GPT-2's table), so that a vocabulary can be written in JSON.
std::string to_byte_level(std::string_view bytes);
// The bytes of byte-level text; false where `text` has a code point outside of the table.
bool from_byte_level(std::string_view text, std::string& bytes);
// The bytes in the order of their code points in that table ('!' first): the order of the single-byte tokens' ids.
const std::array<unsigned char, 256>& byte_level_order();

}  // namespace finback::text
