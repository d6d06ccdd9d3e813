#include "text/scan.h"

#include <algorithm>

namespace finback::text {
namespace {

// What stands at a position: the classes and length of its code point; the end of the text has neither.
struct Char {
  std::uint32_t code = 0, length = 0;
  Classes classes = 0;
  bool is(Classes any) const { return (classes & any) != 0; }
  bool at_end() const { return length == 0; }
};

const ClassTable& table = ClassTable::get();

inline Char char_at(const char* p, const char* end) {
  if (p >= end) return {};
  const auto byte = static_cast<unsigned char>(*p);
  if (byte < 0x80) return {byte, 1, table.of_ascii(byte)};
  const CodePoint c = decode_utf8(p, end);
  return {c.code, c.length, table.of(c.code)};
}

inline bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
inline bool is_cjk_of_v3(std::uint32_t code) { return (code >= 0x4E00 && code <= 0x9FA5) || (code >= 0x3040 && code <= 0x30FF); }

// \s*[\r\n]+|\s+(?!\S)|\s+ at a white space p: up to the last line break of the run; else the run, less its last
// character when that belongs to what follows.
template <class Peek>
const char* end_of_spaces(const char* p, const Peek& peek) {
  const char* after_newline = nullptr;
  const char* last = p;
  const char* q = p;
  Char c = peek(q);
  for (; c.is(kSpace); c = peek(q)) {
    last = q;
    q += c.length;
    if (c.is(kNewline)) after_newline = q;
  }
  if (after_newline != nullptr) return after_newline;
  return c.at_end() || last == p ? q : last;
}

// peek(p) is the character at p, or the end where the surrounding split ends.
template <class Peek>
const char* next_v3_words(const char* p, const Peek& peek) {
  const auto run = [&](const char* q, Classes classes) {
    for (Char c = peek(q); c.is(classes); c = peek(q)) q += c.length;
    return q;
  };
  const Char first = peek(p);
  const char* const next = p + first.length;
  if (first.is(kLetter | kMark)) return run(next, kLetter | kMark);
  const Char second = peek(next);
  if (first.is(kPunctuation | kSymbol)) {
    if (first.code < 0x80 && second.code < 0x80 && second.is(kLetter)) {
      const char* q = next;
      for (Char c = peek(q); c.code < 0x80 && c.is(kLetter); c = peek(q)) ++q;
      return q;
    }
    return run(run(next, kPunctuation | kSymbol), kNewline);
  }
  if (!first.is(kNewline) && second.is(kLetter | kMark)) return run(next, kLetter | kMark);
  if (first.code == ' ' && second.is(kPunctuation | kSymbol)) return run(run(next, kPunctuation | kSymbol), kNewline);
  if (first.is(kSpace)) return end_of_spaces(p, peek);
  // No alternative matches here: a piece up to where one does.
  const char* q = next;
  for (Char c = second; !c.at_end() && !c.is(kLetter | kMark | kPunctuation | kSymbol | kSpace);) {
    const Char after = peek(q + c.length);
    if (after.is(kLetter | kMark)) break;
    q += c.length;
    c = after;
  }
  return q;
}

// 's 't 're 've 'm 'll 'd in any case. U+017F (long s) folds to s.
const char* skip_contraction(const char* p, const char* end) {
  if (end - p < 2 || *p != '\'') return p;
  const auto lower = [&](int i) { return i < end - p && is_ascii_letter(p[i]) ? p[i] | 0x20 : 0; };
  const int a = lower(1), b = lower(2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return p + 3;
  return end - p >= 3 && p[1] == '\xC5' && p[2] == '\xBF' ? p + 3 : p;
}

// U*W+ at p, with backtracking: the match ends at the last W that can follow a run of U. Null if there is none; then
// `upper_end` is where U+ ends.
const char* match_cased_word(const char* p, const char* end, const char** upper_end) {
  constexpr Classes kBoth = kLm | kLo | kMark, kUpper = kLu | kLt | kBoth, kLower = kLl | kBoth;
  const char* after_both = nullptr;
  const char* q = p;
  Char c = char_at(q, end);
  for (; c.is(kUpper) && !c.is(kHan); c = char_at(q, end)) {
    q += c.length;
    if (c.is(kBoth)) after_both = q;
  }
  *upper_end = q;
  if (!c.is(kLower) || c.is(kHan)) return after_both;
  for (; c.is(kLower) && !c.is(kHan); c = char_at(q, end)) q += c.length;
  return q;
}

}  // namespace

const char* next_piece_deepseek_v3_words(const char* p, const char* end) {
  return next_v3_words(p, [end](const char* q) { return char_at(q, end); });
}

const char* next_piece_deepseek_v3(const char* p, const char* end) {
  const Char first = char_at(p, end);
  if (first.is(kNumber)) {
    const char* q = p + first.length;
    for (int n = 1; n < 3; ++n) {
      const Char c = char_at(q, end);
      if (!c.is(kNumber)) break;
      q += c.length;
    }
    return q;
  }
  // The first two splits end the text for the third one: at numbers, and where CJK begins or ends.
  if (is_cjk_of_v3(first.code))
    return next_v3_words(p, [end](const char* q) {
      const Char c = char_at(q, end);
      return is_cjk_of_v3(c.code) ? c : Char{};
    });
  return next_v3_words(p, [end](const char* q) {
    const Char c = char_at(q, end);
    return c.is(kNumber) || is_cjk_of_v3(c.code) ? Char{} : c;
  });
}

const char* next_piece_kimi(const char* p, const char* end) {
  const auto peek = [end](const char* q) { return char_at(q, end); };
  const Char first = peek(p);
  const char* q = p + first.length;
  if (first.is(kHan)) {
    for (Char c = peek(q); c.is(kHan); c = peek(q)) q += c.length;
    return q;
  }
  if (first.is(kNumber)) {
    for (int n = 1; n < 3 && peek(q).is(kNumber); ++n) q += peek(q).length;
    return q;
  }
  const char* upper_end = nullptr;
  if (!first.is(kLetter | kNewline)) {  // as the optional character before a word
    if (const char* word = match_cased_word(q, end, &upper_end)) return skip_contraction(word, end);
    if (!first.is(kMark) && upper_end > q) return skip_contraction(upper_end, end);
  }
  if (first.is(kLetter | kMark)) {
    if (const char* word = match_cased_word(p, end, &upper_end)) return skip_contraction(word, end);
    return skip_contraction(upper_end, end);
  }
  const auto other = [](const Char& c) { return !c.at_end() && !c.is(kSpace | kLetter | kNumber); };
  if (other(first) || (first.code == ' ' && other(peek(q)))) {
    for (Char c = peek(q); other(c); c = peek(q)) q += c.length;
    for (Char c = peek(q); c.is(kNewline); c = peek(q)) q += c.length;
    return q;
  }
  return end_of_spaces(p, peek);
}

bool CodeSet::contains(std::uint32_t code) const {
  if (code == kInvalid) return false;
  if ((table.of(code) & classes_) != 0) return true;
  return std::any_of(ranges_.begin(), ranges_.end(), [code](const auto& r) { return code >= r.first && code <= r.second; });
}

bool CodeSet::parse(std::string_view content, CodeSet& set) {
  static constexpr std::pair<std::string_view, Classes> kNames[] = {{"L", kLetter},      {"Lu", kLu},    {"Ll", kLl},  {"Lt", kLt},
                                                                    {"Lm", kLm},         {"Lo", kLo},    {"M", kMark}, {"N", kNumber},
                                                                    {"P", kPunctuation}, {"S", kSymbol}, {"Han", kHan}};
  const char* p = content.data();
  const char* const end = p + content.size();
  if (p == end || *p == '^') return false;
  // One literal; false at a class, which is added at once, or at an error, told by `ok`.
  bool ok = true;
  const auto literal = [&](std::uint32_t& code) {
    const CodePoint c = decode_utf8(p, end);
    p += c.length;
    code = c.code;
    if (c.code == kInvalid || c.code == '[' || c.code == ']' || c.code == '&') ok = false;
    if (c.code != '\\' || !ok) return ok;
    if (p == end) return ok = false;
    const char escaped = *p++;
    if (escaped == 's') {
      set.add(kSpace);
      return false;
    }
    if (escaped == 'p') {
      const std::size_t from = static_cast<std::size_t>(p - content.data()), close = content.find('}', from);
      if (p == end || *p != '{' || close == content.npos) return ok = false;
      const std::string_view name = content.substr(from + 1, close - from - 1);
      const auto* known = std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& n) { return n.first == name; });
      if (known == std::end(kNames)) return ok = false;
      set.add(known->second);
      p = content.data() + close + 1;
      return false;
    }
    if (escaped == 'r') code = '\r';
    else if (escaped == 'n') code = '\n';
    else if (escaped == 't') code = '\t';
    else if (is_ascii_letter(escaped) || (escaped >= '0' && escaped <= '9')) ok = false;
    else code = static_cast<unsigned char>(escaped);
    return ok;
  };
  while (ok && p < end) {
    std::uint32_t first = 0, last = 0;
    if (!literal(first)) continue;
    last = first;
    if (p + 1 < end && *p == '-') {
      ++p;
      if (!literal(last) || last < first) return false;
    }
    set.add(first, last);
  }
  return ok;
}

bool RunPattern::parse(std::string_view pattern, RunPattern& run) {
  run = {};
  if (pattern == "\\s+$") {
    run.trailing_spaces = true;
    return true;
  }
  if (pattern.substr(0, 3) == "\\s?") {
    run.leading_space = true;
    pattern.remove_prefix(3);
  }
  if (pattern.empty()) return false;
  const bool bracket = pattern[0] == '[';
  const std::size_t close = pattern.rfind(bracket ? ']' : '}', pattern.find_last_not_of("+{},0123456789"));
  const std::size_t atom = bracket ? close : pattern.find('}');
  if (atom == pattern.npos || (!bracket && pattern.substr(0, 3) != "\\p{")) return false;
  const std::string_view content = bracket ? pattern.substr(1, atom - 1) : pattern.substr(0, atom + 1);
  const std::string_view quantifier = pattern.substr(atom + 1);
  if (quantifier.empty()) run.most = 1;
  else if (quantifier == "{1,3}") run.most = 3;
  else if (quantifier != "+") return false;
  return CodeSet::parse(content, run.set);
}

const char* RunPattern::match(const char* p, const char* end) const {
  const char* q = p;
  if (trailing_spaces) {
    const char* match_end = p;  // after which $ holds
    for (Char c = char_at(q, end); c.is(kSpace); c = char_at(q, end)) {
      if (c.code == '\n' && q > p) match_end = q;
      q += c.length;
    }
    return q == end ? q : match_end;
  }
  if (leading_space) {
    const Char c = char_at(p, end);
    const Char after = char_at(p + c.length, end);
    if (c.is(kSpace) && !after.at_end() && set.contains(after.code)) q += c.length;
  }
  for (unsigned n = 0; most == 0 || n < most; ++n) {
    const Char c = char_at(q, end);
    if (c.at_end() || !set.contains(c.code)) break;
    q += c.length;
  }
  return q;
}

const char* RunPattern::next_piece(const char* p, const char* end) const {
  const char* q = match(p, end);
  if (q > p) return q;
  while (q < end && match(q, end) == q) {
    Char c = char_at(q, end);
    q += c.length;
    if (trailing_spaces && c.is(kSpace))  // where \s+$ fails, it fails on all that is left of this run
      for (c = char_at(q, end); c.is(kSpace); c = char_at(q, end)) q += c.length;
  }
  return q;
}

}  // namespace finback::text
