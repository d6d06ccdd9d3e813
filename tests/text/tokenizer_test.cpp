// Tokenizers made by rule, and V3's own vocabulary where FINBACK_DATA holds it.
#include "text/tokenizer.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/rng.h"
#include "tests/text/small.h"
#include "text/tokenizer_json.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

namespace finback::text {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kLongRun = 1 << 20;
#else
constexpr std::size_t kLongRun = 10 << 20;
#endif

TEST(Tokenizer, SpecialTokensStayTextUnlessAskedFor) {
  const Tokenizer t = small_tokenizer();
  const std::string text = "a<｜end▁of▁sentence｜>b<｜User｜><｜User";
  const auto plain = t.encode(text);
  for (const std::int32_t id : plain) EXPECT_FALSE(t.is_special(id));
  EXPECT_EQ(t.decode(plain), text);
  const auto special = t.encode(text, true);
  ASSERT_GE(special.size(), 4u);
  EXPECT_EQ(special[0], t.encode("a")[0]);
  EXPECT_EQ(special[1], t.eos_id());
  EXPECT_EQ(special[2], t.encode("b")[0]);
  EXPECT_EQ(special[3], *t.id_of("<｜User｜>"));
  EXPECT_EQ(t.decode(special), text);
  EXPECT_EQ(t.encode(t.vocabulary().bos, true), std::vector<std::int32_t>{t.bos_id()});
  EXPECT_FALSE(t.id_of("a"));
  EXPECT_FALSE(t.id_of("<｜User"));
}

TEST(Tokenizer, TheLongestSpecialTokenWins) {
  Vocabulary v = small_vocabulary();
  for (const char* text : {"<a", "<a>", "<a>b", "<b"}) {
    v.special.push_back(static_cast<std::int32_t>(v.tokens.size()));
    v.tokens.emplace_back(text);
  }
  const Tokenizer t(std::move(v));
  const auto id = [&](const char* s) { return *t.id_of(s); };
  EXPECT_EQ(t.encode("<a<a><a>b<b", true), (std::vector<std::int32_t>{id("<a"), id("<a>"), id("<a>b"), id("<b")}));
}

TEST(Tokenizer, AnyBytesRoundTrip) {
  const Tokenizer t = small_tokenizer();
  const core::Rng rng(5, core::Stream::test);
  std::uint64_t draw = 0;
  for (int n = 0; n < 300; ++n) {
    std::string bytes;
    const std::uint64_t length = rng.below(draw++, 200);
    for (std::uint64_t i = 0; i < length; ++i) bytes += static_cast<char>(rng.bits(draw++));
    EXPECT_EQ(t.decode(t.encode(bytes)), bytes);
    EXPECT_EQ(t.decode(t.encode(bytes, true)), bytes);
  }
  // CESU surrogates, NUL, a cut sequence, a lone continuation.
  for (const std::string& bytes :
       {std::string("\xED\xA0\xBD\xED\xB8\x80"), std::string("a\0b", 3), std::string("中").substr(0, 2), std::string("\x80")})
    EXPECT_EQ(t.decode(t.encode(bytes)), bytes);
}

TEST(Tokenizer, LongRunsRoundTrip) {
  const Tokenizer t = small_tokenizer();
  for (const std::string unit : {"a", " ", "7", "\n", "中", "\u0301"}) {
    std::string text;
    while (text.size() < kLongRun) text += unit;
    const auto ids = t.encode(text);
    EXPECT_LE(ids.size(), text.size());
    EXPECT_TRUE(t.decode(ids) == text) << unit;
  }
}

TEST(Tokenizer, ThreadsDoNotChangeIds) {
  const Tokenizer t = small_tokenizer();
  std::vector<std::string> texts;
  const core::Rng rng(6, core::Stream::test);
  std::uint64_t draw = 0;
  for (int n = 0; n < 200; ++n) {
    std::string text;
    for (int i = 0; i < 50; ++i) text += static_cast<char>("the cat sat. \n19"[rng.below(draw++, 16)]);
    texts.push_back(text);
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  core::Team one(1), four(4);
  const auto a = t.encode_all(one, views), b = t.encode_all(four, views);
  EXPECT_EQ(a, b);
  std::vector<std::thread> threads;
  for (int k = 0; k < 4; ++k)
    threads.emplace_back([&] {
      for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(t.encode(texts[i]), a[i]);
    });
  for (auto& thread : threads) thread.join();
}

TEST(Tokenizer, EncodeIntoAppendsWithinTheRoomThatItNames) {
  const Tokenizer t = small_tokenizer();
  const std::string text = "the cat \x80\xFF 中 <｜User｜>";
  std::vector<std::int32_t> out;
  out.reserve(text.size() + 1);
  out.push_back(7);
  const auto* const memory = out.data();
  t.encode_into(text, true, out);
  EXPECT_EQ(out.data(), memory);
  EXPECT_EQ(out[0], 7);
  EXPECT_EQ(t.decode(std::span(out).subspan(1)), text);
}

TEST(Tokenizer, BytesThatTheVocabularyLacksBecomeTheReplacementCharacter) {
  Vocabulary v = small_vocabulary();
  // As V2's: no tokens for C0, C1 and F5 … FF. Renamed to something no text makes.
  for (std::string& token : v.tokens)
    if (token.size() == 1 && never_in_utf8(static_cast<unsigned char>(token[0]))) token += "\xFF\xFF\xFF";
  const Tokenizer t(std::move(v));
  EXPECT_EQ(t.decode(t.encode("a\xC0z\xFF")), "a\uFFFDz\uFFFD");
  EXPECT_EQ(t.decode(t.encode("é中🌍")), "é中🌍");
}

TEST(Tokenizer, IdsOutsideAreRefused) {
  const Tokenizer t = small_tokenizer();
  for (const std::int32_t id : {-1, t.vocab_size(), 1 << 30}) {
    try {
      t.decode(std::vector<std::int32_t>{id});
      FAIL() << id;
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::Exit::bad_input);
    }
  }
}

// V3's tokenizer from its published vocabulary; null where there is none.
const Tokenizer* v3() {
  static const std::optional<Tokenizer> tokenizer = []() -> std::optional<Tokenizer> {
    const char* folder = std::getenv("FINBACK_DATA");
    if (folder == nullptr || !core::exists(std::string(folder) + "/deepseek_v3.tiktoken")) return std::nullopt;
    return v3_from_vocabulary(core::read_file(std::string(folder) + "/deepseek_v3.tiktoken", 1 << 24));
  }();
  return tokenizer ? &*tokenizer : nullptr;
}

TEST(Tokenizer, DeepseekV3sGoldenIds) {
  const Tokenizer* const t = v3();
  if (t == nullptr) GTEST_SKIP() << "FINBACK_DATA does not name a folder with deepseek_v3.tiktoken";
  const std::vector<std::pair<std::string, std::vector<std::int32_t>>> golden = {
      {"Hello world", {19923, 2058}},
      {" hello world ", {44388, 2058, 223}},
      {"你好世界", {30594, 3427}},
      {"Hello 你好 World 世界!", {19923, 223, 30594, 4495, 223, 3427, 3}},
      {"Hello 🌍 World!", {19923, 73369, 238, 4495, 3}},
  };
  for (const auto& [text, ids] : golden) {
    EXPECT_EQ(t->encode(text), ids) << text;
    EXPECT_EQ(t->decode(ids), text);
  }
  EXPECT_EQ(t->vocabulary().merges.size(), 127741u);
}

// What the `tokenizers` package makes of texts of many scripts: tests/text/vectors/make_v3_vectors.py recorded it.
TEST(Tokenizer, DeepseekV3sRecordedIds) {
  const Tokenizer* const t = v3();
  if (t == nullptr) GTEST_SKIP() << "FINBACK_DATA does not name a folder with deepseek_v3.tiktoken";
  const auto file = core::read_json_file(FINBACK_SOURCE_DIR "/tests/text/vectors/v3.json");
  int cases = 0;
  for (const auto& item : file.as_array()) {
    const std::string text(item.at("text").as_string());
    std::vector<std::int32_t> ids;
    for (const auto& id : item.at("ids").as_array()) ids.push_back(static_cast<std::int32_t>(id.as_int64()));
    EXPECT_EQ(t->encode(text), ids) << text;
    EXPECT_EQ(t->decode(ids), text);
    ++cases;
  }
  EXPECT_GT(cases, 50);
}

TEST(Tokenizer, DeepseekV3sVocabularyTakesLongRuns) {
  const Tokenizer* const t = v3();
  if (t == nullptr) GTEST_SKIP() << "FINBACK_DATA does not name a folder with deepseek_v3.tiktoken";
  for (const std::string unit : {"a", " ", "7", "\n", "中", "\u0301"}) {
    std::string text;
    while (text.size() < kLongRun) text += unit;
    EXPECT_TRUE(t->decode(t->encode(text)) == text) << unit;
  }
}

}  // namespace
}  // namespace finback::text
