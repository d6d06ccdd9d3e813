#include "text/tiktoken.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

#include <gtest/gtest.h>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

namespace finback::text {
namespace {

std::string folder(const char* name) {
  const std::string at = testing::TempDir() + "finback_tiktoken_" + name;
  core::make_directories(at);
  return at;
}

// 256 bytes and ab, bc, abc: tiktoken merges whatever pair makes the token of the lowest rank.
Vocabulary small() {
  Vocabulary v;
  v.tiktoken = v.whole_pieces = true;
  for (int b = 0; b < 256; ++b) v.tokens.emplace_back(1, static_cast<char>(b));
  for (const char* t : {"bc", "ab", "abc", "abcabc", "中"}) v.tokens.emplace_back(t);
  for (int i = 0; i < 258; ++i) {
    v.special.push_back(static_cast<std::int32_t>(v.tokens.size()));
    v.tokens.push_back(i == 0 ? "[BOS]" : i == 1 ? "[EOS]" : fmt::format("<|reserved_token_{}|>", v.tokens.size()));
  }
  v.bos = "[BOS]";
  v.eos = "[EOS]";
  return v;
}

TEST(Tiktoken, ReservedIdsFollowTheVocabulary) {
  const std::string at = folder("small");
  write_tiktoken(small(), at);
  const Tokenizer t = Tokenizer::load(at);
  EXPECT_EQ(t.vocab_size(), 261 + 258);
  EXPECT_EQ(t.bos_id(), 261);
  EXPECT_EQ(t.eos_id(), 262);
  EXPECT_EQ(t.id_of("<|reserved_token_300|>"), 300);
  EXPECT_EQ(t.id_of("<|reserved_token_518|>"), 518);
  EXPECT_EQ(t.encode("<|reserved_token_300|>", true), std::vector<std::int32_t>{300});
  EXPECT_GT(t.encode("<|reserved_token_300|>").size(), 5u);
  core::sys::remove_tree(at + "/tokenizer_config.json");  // all special tokens are then reserved ones
  EXPECT_EQ(Tokenizer::load(at).id_of("<|reserved_token_261|>"), 261);
}

TEST(Tiktoken, AnyPairThatMakesATokenMerges) {
  const std::string at = folder("pairs");
  write_tiktoken(small(), at);
  const Tokenizer t = Tokenizer::load(at);
  EXPECT_EQ(t.encode("abc"), (std::vector<std::int32_t>{258}));           // the whole piece is a token
  EXPECT_EQ(t.encode("abcd"), (std::vector<std::int32_t>{258, 'd'}));     // b c (256) first, then a bc
  EXPECT_EQ(t.encode("abcabcx"), (std::vector<std::int32_t>{259, 'x'}));  //
  EXPECT_EQ(t.encode("中"), (std::vector<std::int32_t>{260}));
  // Its own folder again.
  const std::string again = folder("again");
  t.save(again);
  for (const char* file : {"/tiktoken.model", "/tokenizer_config.json"})
    EXPECT_EQ(core::read_file(again + file, 1 << 20), core::read_file(at + file, 1 << 20));
}

TEST(Tiktoken, BadFilesAreRefused) {
  const std::string at = folder("bad"), path = at + "/tiktoken.model";
  write_tiktoken(small(), at);
  const std::string good = core::read_file(path, 1 << 20), config = core::read_file(at + "/tokenizer_config.json", 1 << 20);
  const auto refused = [&](const std::string& file) {
    core::write_file_atomic(path, file);
    try {
      Tokenizer::load(at);
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::Exit::bad_input);
      return true;
    }
    return false;
  };
  EXPECT_FALSE(refused(good));
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused("AA== 0\n"));           // bytes are missing
  EXPECT_TRUE(refused(good + "YWI= 300\n"));  // a gap
  EXPECT_TRUE(refused(good + "YWI= 261\n"));  // ab again
  EXPECT_TRUE(refused(good + "YW?= 261\n"));
  EXPECT_TRUE(refused(good + "YWIx\n"));
  EXPECT_TRUE(refused(good + "YWIx 2x\n"));
  EXPECT_TRUE(refused(good + "YWIx -1\n"));
  EXPECT_TRUE(refused(good + "YWIx 99999999999999999999\n"));
  EXPECT_TRUE(refused(good + "\x01\x02\n"));
  core::write_file_atomic(path, good);
  for (const char* bad : {R"({"added_tokens_decoder": {"5": {"content": "x"}}})", R"({"added_tokens_decoder": {"261": {}}})",
                          R"({"added_tokens_decoder": {"x": {"content": "x"}}})", R"({"added_tokens_decoder": []})",
                          R"({"added_tokens_decoder": {"261": {"content": "x"}, "262": {"content": "x"}}})"}) {
    core::write_file_atomic(at + "/tokenizer_config.json", bad);
    EXPECT_THROW(Tokenizer::load(at), core::Error) << bad;
  }
}

// What tiktoken itself makes of random texts with Kimi's pattern: tests/text/vectors/make_kimi_vectors.py recorded it.
TEST(Tiktoken, RecordedIds) {
  const std::string vectors = FINBACK_SOURCE_DIR "/tests/text/vectors/kimi";
  const Tokenizer t = Tokenizer::load(vectors);
  const auto file = core::read_json_file(vectors + "/vectors.json");
  int cases = 0;
  for (const auto& item : file.as_array()) {
    const std::string text(item.at("text").as_string());
    std::vector<std::int32_t> ids;
    for (const auto& id : item.at("ids").as_array()) ids.push_back(static_cast<std::int32_t>(id.as_int64()));
    EXPECT_EQ(t.encode(text, item.at("special").as_bool()), ids) << text;
    ++cases;
  }
  EXPECT_GT(cases, 50);
}

}  // namespace
}  // namespace finback::text
