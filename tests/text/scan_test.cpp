// The scanners against a backtracking twin of the published patterns, on every short string over characters that the
// patterns tell apart, and on random ones.
#include "text/scan.h"

#include "core/error.h"
#include "core/rng.h"
#include "tests/text/pattern.h"
#include "text/pretokenizer.h"

#include <gtest/gtest.h>
#include <boost/json/parse.hpp>

namespace finback::text {
namespace {

namespace p = pattern;
using p::of, p::one, p::repeat, p::seq, p::alt, p::maybe, p::not_before, p::one_of, p::range, p::word;

const p::Set kSpaces = of(kSpace), kBreaks = one_of("\r\n"), kLetters = of(kLetter), kNumbers = of(kNumber), kMarks = of(kMark);
const p::Set kSigns = of(kPunctuation | kSymbol);

std::vector<p::Node> spaces() {
  return {seq({repeat(kSpaces, 0), repeat(kBreaks, 1)}), seq({repeat(kSpaces, 1), not_before(!kSpaces)}), repeat(kSpaces, 1)};
}

p::Node v3_words() {
  std::vector<p::Node> a = {
      seq({one(one_of("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")), repeat(range('A', 'Z') || range('a', 'z'), 1)}),
      seq({maybe(one(!(kBreaks || kLetters || kSigns))), repeat(kLetters || kMarks, 1)}),
      seq({maybe(one(one_of(" "))), repeat(kSigns, 1), repeat(kBreaks, 0)}),
  };
  for (auto& s : spaces()) a.push_back(s);
  return alt(a);
}

std::vector<p::Node> v3() { return {repeat(kNumbers, 1, 3), repeat(range(0x4E00, 0x9FA5) || range(0x3040, 0x30FF), 1), v3_words()}; }

std::vector<p::Node> kimi() {
  const p::Set han = of(kHan), upper = of(kLu | kLt | kLm | kLo | kMark) && !han, lower = of(kLl | kLm | kLo | kMark) && !han;
  const p::Node before = maybe(one(!(kBreaks || kLetters || kNumbers)));
  const p::Node after = maybe(alt({word("'s"), word("'t"), word("'re"), word("'ve"), word("'m"), word("'ll"), word("'d")}));
  std::vector<p::Node> a = {
      repeat(han, 1),
      seq({before, repeat(upper, 0), repeat(lower, 1), after}),
      seq({before, repeat(upper, 1), repeat(lower, 0), after}),
      repeat(kNumbers, 1, 3),
      seq({maybe(one(one_of(" "))), repeat(!(kSpaces || kLetters || kNumbers), 1), repeat(kBreaks, 0)}),
  };
  for (auto& s : spaces()) a.push_back(s);
  return {alt(a)};
}

// A chain of V2's kind, small enough to read.
constexpr const char* kV2Json = R"({"type": "Sequence", "pretokenizers": [
  {"type": "Split", "pattern": {"Regex": "[\r\n]"}, "behavior": "Isolated", "invert": false},
  {"type": "Split", "pattern": {"Regex": "\\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+"}, "behavior": "Isolated", "invert": false},
  {"type": "Split", "pattern": {"Regex": "\\s?[!-/:-~！-／：-～‘-‟　-。]+"}, "behavior": "Isolated", "invert": false},
  {"type": "Split", "pattern": {"Regex": "\\s+$"}, "behavior": "Isolated", "invert": false},
  {"type": "Split", "pattern": {"Regex": "[一-龥ࠀ-一가-퟿]+"}, "behavior": "Isolated", "invert": false},
  {"type": "Digits", "individual_digits": true},
  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})";

std::vector<p::Node> v2() {
  const p::Set letters =
      range('A', 'Z') || range('a', 'z') || range(0xB5, 0xB5) || range(0xC0, 0xD6) || range(0xD8, 0xF6) || range(0xF8, 0x1BA);
  const p::Set signs = range('!', '/') || range(':', '~') || range(0xFF01, 0xFF0F) || range(0xFF1A, 0xFF5E) || range(0x2018, 0x201F) ||
                       range(0x3000, 0x3002);
  const p::Set cjk = range(0x4E00, 0x9FA5) || range(0x800, 0x4E00) || range(0xAC00, 0xD7FF);
  return {one(kBreaks),
          seq({maybe(one(kSpaces)), repeat(letters, 1)}),
          seq({maybe(one(kSpaces)), repeat(signs, 1)}),
          seq({repeat(kSpaces, 1), p::line_end()}),
          repeat(cjk, 1),
          one(kNumbers)};
}

std::vector<std::size_t> ends_of(const PreTokenizer& pre, std::string_view text) {
  std::vector<std::size_t> ends;
  pre.split(text, [&](const char*, const char* q) { ends.push_back(static_cast<std::size_t>(q - text.data())); });
  return ends;
}

void expect_same(const PreTokenizer& pre, const std::vector<p::Node>& chain, const std::string& bytes) {
  const p::Text text(bytes);
  std::vector<std::size_t> expected;
  for (const std::size_t e : p::split(text, chain)) expected.push_back(text.offsets[e]);
  ASSERT_EQ(ends_of(pre, bytes), expected) << testing::PrintToString(bytes);
}

// One of each kind that some pattern tells apart.
const std::vector<std::string> kKinds = {"a",      "B", "s",      "'", "!",      " ",  "\t",   "\n", "\r", "7",      "中", "の",     "・",
                                         "\u0301", "é", "\u01C5", "ʰ", "\u0378", "　", "\x80", "+",  "⼀", "\u3099", "각", "\u017F", "Ⅳ"};

void compare(const PreTokenizer& pre, const std::vector<p::Node>& chain) {
  for (const auto& a : kKinds)
    for (const auto& b : kKinds)
      for (const auto& c : kKinds) expect_same(pre, chain, a + b + c);
  const core::Rng rng(1, core::Stream::test);
  std::uint64_t draw = 0;
  for (int n = 0; n < 4000; ++n) {
    // Few kinds at once, so that runs and their ends come together.
    std::string text;
    const std::uint64_t kinds = 2 + rng.below(draw++, 5), length = 1 + rng.below(draw++, 24), first = rng.below(draw++, kKinds.size());
    std::vector<std::string> some;
    for (std::uint64_t k = 0; k < kinds; ++k) some.push_back(kKinds[(first + k * (1 + rng.below(draw++, kKinds.size()))) % kKinds.size()]);
    for (std::uint64_t k = 0; k < length; ++k) text += some[rng.below(draw++, some.size())];
    expect_same(pre, chain, text);
  }
}

TEST(Scan, DeepseekV3IsItsPattern) { compare(PreTokenizer::deepseek_v3(), v3()); }
TEST(Scan, KimiIsItsPattern) { compare(PreTokenizer::kimi(), kimi()); }
TEST(Scan, DeepseekV2IsItsPattern) { compare(PreTokenizer::from_json(boost::json::parse(kV2Json), "test"), v2()); }

TEST(Scan, PiecesJoinToAnyBytes) {
  const core::Rng rng(2, core::Stream::test);
  std::string bytes;
  for (std::uint64_t i = 0; i < 100000; ++i) bytes += static_cast<char>(rng.bits(i));
  for (const PreTokenizer& pre : {PreTokenizer::deepseek_v3(), PreTokenizer::kimi()}) {
    std::size_t at = 0;
    pre.split(bytes, [&](const char* b, const char* e) {
      EXPECT_EQ(b, bytes.data() + at);
      EXPECT_LT(b, e);
      at = static_cast<std::size_t>(e - bytes.data());
    });
    EXPECT_EQ(at, bytes.size());
  }
}

// Where a pattern looks ahead or backtracks over a whole run, a long run must still end: minutes if it were quadratic.
TEST(Scan, LongRunsTakeLinearTime) {
  std::vector<std::string> units = {"a", "A", " ", "7", "\n", "中", "\u0301", "!", "\t", "\x80", " \n", "ʰA", "A\u0301", "\u0378", "a'"};
  for (const PreTokenizer& pre :
       {PreTokenizer::deepseek_v3(), PreTokenizer::kimi(), PreTokenizer::from_json(boost::json::parse(kV2Json), "")})
    for (const std::string& unit : units)
      for (const char* tail : {"", "x"}) {
        std::string text;
        while (text.size() < 400000) text += unit;
        text += tail;
        std::size_t at = 0;
        pre.split(text, [&](const char*, const char* q) { at = static_cast<std::size_t>(q - text.data()); });
        EXPECT_EQ(at, text.size());
      }
}

TEST(Scan, UnsupportedPartsAreNamed) {
  const auto refusal = [](const char* json) -> std::string {
    try {
      PreTokenizer::from_json(boost::json::parse(json), "file");
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::Exit::bad_input);
      return e.what();
    }
    return "";
  };
  EXPECT_NE(refusal(R"({"type": "Metaspace"})").find("Metaspace"), std::string::npos);
  EXPECT_NE(refusal(R"({"type": "ByteLevel", "add_prefix_space": false})").find("use_regex"), std::string::npos);
  EXPECT_NE(refusal(R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(a|b)+"}, "behavior": "Isolated"}]})")
                .find("(a|b)+"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"type": "Split", "pattern": {"Regex": "[a]"}, "behavior": "Removed"})").find("Removed"), std::string::npos);
  for (const char* bad : {"", "\\\\s?", "[z-a]+", "[", "[]", "[^a]+", "\\\\p{Xx}+", "[a&&b]", "[a]{2}", "\\\\p{N", "[\\\\"})
    EXPECT_NE(refusal(fmt::format(R"({{"type": "Split", "pattern": {{"Regex": "{}"}}, "behavior": "Isolated"}})", bad).c_str()), "") << bad;
}

}  // namespace
}  // namespace finback::text
