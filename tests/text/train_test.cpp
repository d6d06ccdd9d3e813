// The trainer against the definition, counted anew for every merge, and against the `tokenizers` package's recorded merges.
#include "text/train.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/rng.h"
#include "text/word_count.h"

#include <gtest/gtest.h>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <map>

namespace finback::text {
namespace {

constexpr std::int32_t kFirst = 3, kLast = 5;

std::string random_corpus(std::uint64_t seed, std::uint64_t length) {
  const core::Rng rng(seed, core::Stream::test);
  const std::vector<std::string> units = {"a", "b", "aa", "ab", "c", " ", " the", "中", "\n", "7", "é", "aaa"};
  std::string text;
  for (std::uint64_t i = 0; i < length; ++i) text += units[rng.below(i, units.size())];
  return text;
}

// Counts all pairs of all words again before each merge; of equal counts the lower left id, then the lower right id.
std::vector<std::pair<std::int32_t, std::int32_t>> by_definition(std::string_view text, std::size_t merges) {
  std::map<std::string, std::int64_t> words;
  PreTokenizer::deepseek_v3().split(text, [&](const char* p, const char* q) { ++words[std::string(p, q)]; });
  std::array<std::int32_t, 256> byte_id;
  for (std::size_t i = 0; i < 256; ++i) byte_id[byte_level_order()[i]] = static_cast<std::int32_t>(i) + kFirst;
  std::vector<std::pair<std::vector<std::int32_t>, std::int64_t>> list;
  for (const auto& [word, count] : words) {
    list.push_back({{}, count});
    for (const char c : word) list.back().first.push_back(byte_id[static_cast<unsigned char>(c)]);
  }
  std::map<std::int32_t, std::string> bytes;
  std::map<std::string, std::int32_t> ids;
  for (std::size_t b = 0; b < 256; ++b) ids[bytes[byte_id[b]] = std::string(1, static_cast<char>(b))] = byte_id[b];
  std::vector<std::pair<std::int32_t, std::int32_t>> made;
  while (made.size() < merges) {
    std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> counts;
    for (const auto& [word, count] : list)
      for (std::size_t i = 0; i + 1 < word.size(); ++i) counts[{word[i], word[i + 1]}] += count;
    std::pair<std::int32_t, std::int32_t> best;
    std::int64_t most = 0;
    for (const auto& [pair, count] : counts)
      if (count > most) {
        most = count;
        best = pair;
      }
    if (most == 0) break;
    made.push_back(best);
    const std::string joined = bytes[best.first] + bytes[best.second];
    const std::int32_t into = ids.try_emplace(joined, static_cast<std::int32_t>(ids.size()) + kFirst).first->second;
    bytes[into] = joined;
    for (auto& [word, count] : list) {
      std::vector<std::int32_t> after;
      for (std::size_t i = 0; i < word.size(); ++i)
        if (i + 1 < word.size() && word[i] == best.first && word[i + 1] == best.second) {
          after.push_back(into);
          ++i;
        } else {
          after.push_back(word[i]);
        }
      word = after;
    }
  }
  return made;
}

std::vector<std::pair<std::int32_t, std::int32_t>> pairs_of(const Tokenizer& t) {
  std::vector<std::pair<std::int32_t, std::int32_t>> pairs;
  for (const Merge& m : t.vocabulary().merges) pairs.emplace_back(m.left, m.right);
  return pairs;
}

Tokenizer train(std::string_view text, std::int32_t merges, int threads = 1) {
  core::Team team(threads);
  return train_bpe(std::span(&text, 1), {.vocab_size = kFirst + 256 + merges + kLast}, team);
}

TEST(Train, MergesAreTheDefinition) {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    const std::string text = random_corpus(seed, 600);
    EXPECT_EQ(pairs_of(train(text, 60)), by_definition(text, 60)) << seed;
  }
}

// tests/text/vectors/make_train_vectors.py recorded what BpeTrainer learns from the same text.
TEST(Train, MergesAreTheRecordedOnes) {
  const auto file = core::read_json_file(FINBACK_SOURCE_DIR "/tests/text/vectors/train.json");
  const std::string text(file.at("text").as_string());
  const auto& merges = file.at("merges").as_array();
  const Tokenizer t = train(text, static_cast<std::int32_t>(merges.size()));
  ASSERT_EQ(t.vocabulary().merges.size(), merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const Merge& m = t.vocabulary().merges[i];
    EXPECT_EQ(to_byte_level(t.token_bytes(m.left)), std::string_view(merges[i].at(0).as_string())) << i;
    EXPECT_EQ(to_byte_level(t.token_bytes(m.right)), std::string_view(merges[i].at(1).as_string())) << i;
  }
}

TEST(Train, ThreadsAndFilesDoNotChangeTheResult) {
  std::string text = random_corpus(9, 700000);  // several parts to count
  const Tokenizer one = train(text, 300, 1);
  EXPECT_EQ(pairs_of(train(text, 300, 4)), pairs_of(one));
  const std::size_t cut = text.find("\na", text.size() / 3) + 1;
  const std::vector<std::string_view> halves = {std::string_view(text).substr(cut), std::string_view(text).substr(0, cut)};
  core::Team team(2);
  EXPECT_EQ(pairs_of(train_bpe(halves, {.vocab_size = kFirst + 256 + 300 + kLast}, team)), pairs_of(one));
}

TEST(Train, LayoutIsV3s) {
  const Tokenizer t = train(random_corpus(1, 2000), 100);
  EXPECT_EQ(t.vocab_size(), kFirst + 256 + 100 + kLast);
  EXPECT_EQ(t.bos_id(), 0);
  EXPECT_EQ(t.eos_id(), 1);
  EXPECT_EQ(t.pad_id(), 2);
  EXPECT_EQ(t.token_bytes(3), "!");
  EXPECT_EQ(t.vocabulary().merges[0].into, 259);
  ASSERT_TRUE(t.fim());
  EXPECT_EQ(t.fim()->hole, t.vocab_size() - 5);
  EXPECT_EQ(t.fim()->begin, t.vocab_size() - 4);
  EXPECT_EQ(t.fim()->end, t.vocab_size() - 3);
  EXPECT_EQ(t.id_of("<｜Assistant｜>"), t.vocab_size() - 1);
}

TEST(Train, ATextWithoutPairsIsFilledUp) {
  const Tokenizer t = train("abab", 10);  // a b, then ab ab: no more
  EXPECT_EQ(t.vocab_size(), kFirst + 256 + 10 + kLast);
  EXPECT_EQ(t.vocabulary().merges.size(), 2u);
  EXPECT_EQ(t.id_of("<｜place▁holder▁no▁0｜>"), kFirst + 256 + 2);
  EXPECT_EQ(t.id_of("<｜place▁holder▁no▁7｜>"), kFirst + 256 + 9);
  EXPECT_EQ(t.decode(t.encode("ababx")), "ababx");
}

TEST(Train, OneEndlessWordIsLearnt) {
  const Tokenizer t = train(std::string(1 << 20, 'a'), 10);
  EXPECT_EQ(t.token_bytes(t.vocabulary().merges.back().into).size(), 1024u);
}

TEST(Train, BadRequestsAreRefused) {
  const auto code = [](std::string_view text, std::int32_t size) {
    core::Team team(1);
    try {
      train_bpe(std::span(&text, 1), {.vocab_size = size}, team);
    } catch (const core::Error& e) {
      return e.code();
    }
    return core::Exit::done;
  };
  EXPECT_EQ(code("abc", 263), core::Exit::usage);
  EXPECT_EQ(code("abc", 264), core::Exit::done);
  EXPECT_EQ(code("abc", -1), core::Exit::usage);
  EXPECT_EQ(code("abc", 1 << 30), core::Exit::usage);
  EXPECT_EQ(code("", 300), core::Exit::bad_input);
}

TEST(WordCount, PartsHaveThePiecesOfTheWhole) {
  const std::string text = random_corpus(11, 5000) + "\n\n \n x\n\u00a0y\n\u3000z\n\n";
  std::vector<std::string> whole, parts;
  PreTokenizer::deepseek_v3().split(text, [&](const char* p, const char* q) { whole.emplace_back(p, q); });
  const std::string_view view = text;
  for (const std::string_view part : cut_between_pieces(std::span(&view, 1), 5))
    PreTokenizer::deepseek_v3().split(part, [&](const char* p, const char* q) { parts.emplace_back(p, q); });
  EXPECT_EQ(parts, whole);
  EXPECT_GT(cut_between_pieces(std::span(&view, 1), 5).size(), 100u);
}

}  // namespace
}  // namespace finback::text
