// Scanners: where the next piece of a text ends. Hand-written equivalents of the published pre-tokenizer patterns, because
// a backtracking engine takes quadratic time or overflows its stack on long runs. Every function is linear: it reads a
// code point at most three times. Arguments are 0 < end - p bytes; the result is in (p, end].
#pragma once

#include "text/unicode.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace finback::text {

// DeepSeek-V3's three splits, one within another, in one pass:
//   \p{N}{1,3}
//   [一-龥぀-ゟ゠-ヿ]+                      (U+4E00–U+9FA5, U+3040–U+30FF)
//   [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
// Text between matches is a piece too ("isolated" splits), so pieces always join to the text.
const char* next_piece_deepseek_v3(const char* p, const char* end);

// The third of these patterns alone.
const char* next_piece_deepseek_v3_words(const char* p, const char* end);

// The pattern of Moonlight's and Kimi-K2's tiktoken.model (U = Lu|Lt|Lm|Lo|M and W = Ll|Lm|Lo|M, both without Han):
//   [\p{Han}]+|[^\r\n\p{L}\p{N}]?U*W+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?U+W*(?i:'s|…)?|\p{N}{1,3}|
//    ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
const char* next_piece_kimi(const char* p, const char* end);

// A set of code points: classes and ranges.
class CodeSet {
 public:
  // The content of a bracket expression ("A-Za-zµ\p{N}\r\n"), or a single escape; false if it is not such.
  static bool parse(std::string_view content, CodeSet& set);
  void add(Classes classes) { classes_ |= classes; }
  void add(std::uint32_t first, std::uint32_t last) { ranges_.emplace_back(first, last); }
  bool contains(std::uint32_t code) const;

 private:
  Classes classes_ = 0;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> ranges_;
};

// The simple splits of DeepSeek-V2's chain: `C+`, `C{1,3}`, `C` or `\s?C+` for a set C; or `\s+$`, where $ stands before
// every line feed and at the end, as in the compared package's engine.
struct RunPattern {
  static bool parse(std::string_view pattern, RunPattern& run);
  CodeSet set;
  bool leading_space = false;
  bool trailing_spaces = false;  // the pattern is \s+$
  unsigned most = 0;             // code points in a match; 0: no bound

  // The end of the match that begins at p; p itself where none does.
  const char* match(const char* p, const char* end) const;
  // The next piece: a match, or all before the next one.
  const char* next_piece(const char* p, const char* end) const;
};

}  // namespace finback::text
