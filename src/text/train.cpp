#include "text/train.h"

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "text/word_count.h"

#include <algorithm>
#include <queue>
#include <unordered_map>
#include <unordered_set>

namespace finback::text {
namespace {

using core::Error;
using core::Exit;

// All distinct words as one array of symbols, each a linked list, with every pair's count and positions. A merge visits the
// positions of its pair alone, so that one endless word costs no more than many short ones.
class Merger {
 public:
  // byte_ids: the ids of single bytes. The order of `words` does not matter.
  Merger(std::span<const CountedWord> words, const std::array<std::int32_t, 256>& byte_ids) {
    std::size_t symbols = 0;
    for (const CountedWord& w : words) symbols += w.bytes.size();
    if (symbols >= kNone)
      throw Error(Exit::bad_input, fmt::format("{} bytes of distinct words, at most 4 GiB are taken", symbols), "tokenizer train",
                  "train on a part of the text");
    token_.reserve(symbols);
    for (std::size_t w = 0; w < words.size(); ++w) {
      const auto first = static_cast<std::uint32_t>(token_.size());
      for (const char byte : words[w].bytes) {
        const auto i = static_cast<std::uint32_t>(token_.size());
        previous_.push_back(i == first ? kNone : i - 1);
        next_.push_back(i + 1);
        word_.push_back(static_cast<std::uint32_t>(w));
        token_.push_back(byte_ids[static_cast<unsigned char>(byte)]);
      }
      next_.back() = kNone;
      count_.push_back(words[w].count);
    }
    for (std::uint32_t i = 0; i < token_.size(); ++i)
      if (next_[i] != kNone) add_pair(i, count_[word_[i]]);
    queue_changed();
  }

  // The most frequent pair; false when no two symbols stand together any more.
  bool next(std::int32_t& left, std::int32_t& right) {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      const std::int64_t count = pairs_.at(top.pair).count;
      if (count <= 0) continue;
      if (count != top.count) {  // it changed since it was queued
        queue_.push({count, top.pair});
        continue;
      }
      left = static_cast<std::int32_t>(top.pair >> 32);
      right = static_cast<std::int32_t>(top.pair & 0xFFFFFFFF);
      return true;
    }
    return false;
  }

  void merge(std::int32_t left, std::int32_t right, std::int32_t into) {
    std::vector<std::uint32_t> positions = std::move(pairs_.at(key(left, right)).positions);
    pairs_.at(key(left, right)) = {};
    // Left to right, as runs of one symbol need it; in order already, but where two pairs make the same token.
    if (!std::is_sorted(positions.begin(), positions.end())) std::sort(positions.begin(), positions.end());
    for (const std::uint32_t i : positions) {
      const std::uint32_t j = token_[i] == left ? next_[i] : kNone;
      if (j == kNone || token_[j] != right) continue;  // an earlier merge took one of them
      const std::int64_t count = count_[word_[i]];
      const std::uint32_t before = previous_[i], after = next_[j];
      if (before != kNone) pairs_[key(token_[before], left)].count -= count;
      if (after != kNone) pairs_[key(right, token_[after])].count -= count;
      token_[i] = into;
      token_[j] = kTaken;
      next_[i] = after;
      if (after != kNone) previous_[after] = i;
      if (before != kNone) add_pair(before, count);
      if (after != kNone) add_pair(i, count);
    }
    queue_changed();
  }

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;
  static constexpr std::int32_t kTaken = -1;
  struct Pair {
    std::int64_t count = 0;
    std::vector<std::uint32_t> positions;  // of its left symbols; some no longer hold
  };
  struct Candidate {
    std::int64_t count;
    std::uint64_t pair;
    bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : pair > other.pair; }
  };
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  }
  void add_pair(std::uint32_t i, std::int64_t count) {
    const std::uint64_t k = key(token_[i], token_[next_[i]]);
    Pair& pair = pairs_[k];
    if (pair.positions.empty() || pair.positions.back() != i) pair.positions.push_back(i);
    pair.count += count;
    changed_.insert(k);
  }
  void queue_changed() {
    for (const std::uint64_t k : changed_)
      if (const std::int64_t count = pairs_.at(k).count; count > 0) queue_.push({count, k});
    changed_.clear();
  }

  std::vector<std::int32_t> token_;
  std::vector<std::uint32_t> previous_, next_, word_;  // by symbol
  std::vector<std::int64_t> count_;                    // by word
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::unordered_set<std::uint64_t> changed_;
  std::priority_queue<Candidate> queue_;
};

void check(const TrainOptions& options) {
  const auto least = static_cast<std::int64_t>(options.first_special.size() + 256 + options.last_special.size());
  if (options.vocab_size < least || options.vocab_size > 1 << 24)
    throw Error(Exit::usage, fmt::format("a vocabulary of {} tokens", options.vocab_size), "--vocab-size",
                fmt::format("give {} … {}: {} bytes and special tokens, and merges", least, 1 << 24, least));
}

}  // namespace

Tokenizer train_bpe(std::span<const std::string_view> texts, const TrainOptions& options, core::Team& team) {
  check(options);
  const std::vector<CountedWord> words = count_words(texts, options.pre_tokenizer, team);
  if (words.empty()) throw Error(Exit::bad_input, "no text to train on", "tokenizer train", "give files that are not empty");

  Vocabulary v;
  v.pre_tokenizer = options.pre_tokenizer;
  const auto add = [&](std::string_view bytes) {
    v.tokens.emplace_back(bytes);
    return static_cast<std::int32_t>(v.tokens.size()) - 1;
  };
  const auto add_special = [&](std::string_view text) { v.special.push_back(add(text)); };
  for (const std::string& text : options.first_special) add_special(text);
  std::array<std::int32_t, 256> byte_ids;
  std::unordered_map<std::string, std::int32_t> known;
  for (const unsigned char b : byte_level_order()) {
    const std::string byte(1, static_cast<char>(b));
    known[byte] = byte_ids[b] = add(byte);
  }

  const std::size_t merged_size = static_cast<std::size_t>(options.vocab_size) - options.last_special.size();
  Merger merger(words, byte_ids);
  std::unordered_set<std::uint64_t> merged;
  core::Progress progress;
  for (std::int32_t left = 0, right = 0; v.tokens.size() < merged_size && merger.next(left, right);) {
    const std::string bytes = v.tokens[static_cast<std::size_t>(left)] + v.tokens[static_cast<std::size_t>(right)];
    const auto [token, is_new] = known.try_emplace(bytes, static_cast<std::int32_t>(v.tokens.size()));
    if (is_new) add(bytes);
    // Two pairs may make one token; then its pairs can come up again after they were merged.
    if (merged.insert(static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right)).second)
      v.merges.push_back({left, right, token->second, static_cast<std::uint32_t>(v.merges.size())});
    merger.merge(left, right, token->second);
    if (v.merges.size() % 1024 == 0) progress.update(fmt::format("merges: {} of {} tokens", v.tokens.size(), options.vocab_size));
  }
  progress.finish();
  if (const std::size_t found = v.tokens.size(); found < merged_size) {
    core::warn("the text has no more pairs to merge: {} of {} tokens are place holders, give more text or a smaller --vocab-size",
               merged_size - found, options.vocab_size);
    for (std::size_t k = 0; v.tokens.size() < merged_size; ++k) add_special(fmt::format("<｜place▁holder▁no▁{}｜>", k));
  }
  for (const std::string& text : options.last_special) add_special(text);
  v.bos = options.first_special.size() > 0 ? options.first_special[0] : "";
  v.eos = options.first_special.size() > 1 ? options.first_special[1] : "";
  v.pad = options.first_special.size() > 2 ? options.first_special[2] : "";
  return Tokenizer(std::move(v));
}

Tokenizer train_bpe_on_files(std::span<const std::string> files, const TrainOptions& options, core::Team& team) {
  check(options);  // before any file is read
  std::vector<core::MappedFile> mapped;
  std::vector<std::string_view> texts;
  for (const std::string& file : files) {
    mapped.emplace_back(file);
    texts.push_back(mapped.back().text());
  }
  Tokenizer tokenizer = train_bpe(texts, options, team);
  for (const core::MappedFile& file : mapped) file.check_unchanged();
  return tokenizer;
}

}  // namespace finback::text
