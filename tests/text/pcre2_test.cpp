// The scanners against PCRE2, where it is installed. Its Unicode version is its own, so code points are kept to old ones; it
// gives up on runs of megabytes, so texts are short.
#ifdef FINBACK_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/rng.h"
#include "text/pretokenizer.h"

#include <gtest/gtest.h>
#include <pcre2.h>

#include <memory>

namespace finback::text {
namespace {

using Code = std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)>;

Code compile(std::string_view pattern) {
  int error = 0;
  PCRE2_SIZE at = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr),
            &pcre2_code_free);
  EXPECT_NE(code, nullptr) << pattern.substr(at);
  return code;
}

// One "isolated" split within each piece.
std::vector<std::string> split(const std::vector<std::string>& pieces, std::string_view pattern) {
  const Code code = compile(pattern);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(pcre2_match_data_create(1, nullptr),
                                                                                  &pcre2_match_data_free);
  std::vector<std::string> finer;
  for (const std::string& piece : pieces) {
    std::size_t from = 0;
    while (from < piece.size() &&
           pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(piece.data()), piece.size(), from, 0, match.get(), nullptr) > 0) {
      const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match.get());
      if (span[0] > from) finer.push_back(piece.substr(from, span[0] - from));
      finer.push_back(piece.substr(span[0], span[1] - span[0]));
      from = span[1];
    }
    if (from < piece.size()) finer.push_back(piece.substr(from));
  }
  return finer;
}

std::string random_text(const core::Rng& rng, std::uint64_t& draw) {
  static const std::vector<std::string> kUnits = {"a",  "Bc", "é",      "Ж",      "中", "の", "・",     "각", "\u0301", " ",
                                                  "  ", "\t", "\n",     "\r\n",   "1",  "23", "½",      "'s", "!",      "--",
                                                  "€",  "＋", "\u3000", "\u00a0", "_",  "😀", "\u200b", "ʰ",  "ǅ",      "'LL"};
  std::string text;
  const std::uint64_t length = 1 + rng.below(draw++, 20);
  for (std::uint64_t i = 0; i < length; ++i) text += kUnits[rng.below(draw++, kUnits.size())];
  return text;
}

void compare(const PreTokenizer& pre, const std::vector<std::string_view>& patterns) {
  const core::Rng rng(7, core::Stream::test);
  std::uint64_t draw = 0;
  for (int n = 0; n < 3000; ++n) {
    const std::string text = random_text(rng, draw);
    std::vector<std::string> ours, theirs = {text};
    pre.split(text, [&](const char* p, const char* q) { ours.emplace_back(p, q); });
    for (const std::string_view pattern : patterns) theirs = split(theirs, pattern);
    ASSERT_EQ(ours, theirs) << text;
  }
}

TEST(Pcre2, DeepseekV3) {
  compare(PreTokenizer::deepseek_v3(),
          {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+",
           "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
           "?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"});
}

TEST(Pcre2, Kimi) {
  // PCRE2 has no intersection of classes: a lookahead before each character says the same. Its plain \p{Han} takes script
  // extensions too, which the engines of tiktoken and tokenizers do not.
  const std::string upper = "(?:(?!\\p{sc:Han})[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}])",
                    lower = "(?:(?!\\p{sc:Han})[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}])";
  const std::string before = "[^\\r\\n\\p{L}\\p{N}]?", after = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
  const std::string pattern = "\\p{sc:Han}+|" + before + upper + "*" + lower + "+" + after + "|" + before + upper + "+" + lower + "*" +
                              after + "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  compare(PreTokenizer::kimi(), {pattern});
}

}  // namespace
}  // namespace finback::text
#endif
