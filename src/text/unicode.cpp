#include "text/unicode.h"

#include "core/error.h"

#include <algorithm>
#include <map>

namespace finback::text {
namespace {

// Printable Latin-1 bytes stand for themselves; the other 68 take the code points from 256 on, in their order.
bool stands_for_itself(int byte) { return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE; }

struct ByteLevel {
  std::array<std::uint16_t, 256> code;
  std::array<std::int16_t, 256 + 68> byte;
  std::array<unsigned char, 256> order;
  ByteLevel() {
    byte.fill(-1);
    std::uint16_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const std::uint16_t c = stands_for_itself(b) ? static_cast<std::uint16_t>(b) : next++;
      code[static_cast<std::size_t>(b)] = c;
      byte[c] = static_cast<std::int16_t>(b);
    }
    std::size_t i = 0;
    for (const std::int16_t b : byte)
      if (b >= 0) order[i++] = static_cast<unsigned char>(b);
  }
};

const ByteLevel& byte_level() {
  static const ByteLevel table;
  return table;
}

}  // namespace

ClassTable::ClassTable() {
  std::map<std::array<Classes, 256>, std::uint16_t> known;
  std::array<Classes, 256> page;
  int range = 0;
  for (std::uint32_t code = 0; code < kCodePoints; ++code) {
    if (range + 1 < kClassRangeCount && kClassRanges[range + 1].first == code) ++range;
    page[code & 255] = kClassRanges[range].classes;
    if ((code & 255) != 255) continue;
    const auto [it, is_new] = known.try_emplace(page, static_cast<std::uint16_t>(known.size()));
    FB_CHECK(it->second < pages_.size(), "more than {} different pages", pages_.size());
    if (is_new) pages_[it->second] = page;
    page_[code >> 8] = it->second;
  }
  std::copy_n(pages_[page_[0]].begin(), 128, ascii_.begin());
}

const ClassTable& ClassTable::get() {
  static const ClassTable table;
  return table;
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto put = [&](std::uint32_t b) { out += static_cast<char>(b); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

std::string to_byte_level(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char b : bytes) append_utf8(out, byte_level().code[static_cast<unsigned char>(b)]);
  return out;
}

bool from_byte_level(std::string_view text, std::string& bytes) {
  bytes.clear();
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const CodePoint c = decode_utf8(p, end);
    if (c.code >= byte_level().byte.size() || byte_level().byte[c.code] < 0) return false;
    bytes += static_cast<char>(byte_level().byte[c.code]);
    p += c.length;
  }
  return true;
}

const std::array<unsigned char, 256>& byte_level_order() { return byte_level().order; }

}  // namespace finback::text
