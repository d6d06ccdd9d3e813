// Random splitting of tokens that join punctuation and line breaks. The pre-tokenizer makes such tokens (".\n\n"); a prompt that
// ends in "." then looks unlike anything seen in training. A share of them is split in training [V3 §4.1].
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace finback::text {
class Tokenizer;
}

namespace finback::data {

// Where the bytes of a token divide into punctuation and line breaks; 0 if it is not such a token. Before the breaks stand one
// or more bytes that are ASCII punctuation or part of a character beyond ASCII, after at most one space.
std::size_t punctuation_end(std::string_view bytes);

// For each token id the two tokens that it may be split into.
class SplitTable {
 public:
  struct Parts {
    std::int32_t id, head, tail;
  };

  SplitTable() = default;  // splits nothing
  SplitTable(std::int64_t vocab_size, std::span<const Parts> parts);
  // Every token of punctuation and line breaks of which both parts are tokens themselves.
  explicit SplitTable(const text::Tokenizer& tokenizer);

  bool empty() const { return head_.empty(); }
  bool contains(std::int32_t id) const { return static_cast<std::size_t>(id) < head_.size() && head_[static_cast<std::size_t>(id)] >= 0; }
  std::int32_t head(std::int32_t id) const { return head_[static_cast<std::size_t>(id)]; }
  std::int32_t tail(std::int32_t id) const { return tail_[static_cast<std::size_t>(id)]; }
  std::int64_t size() const;

 private:
  std::vector<std::int32_t> head_, tail_;  // [vocab_size], −1: not split
};

}  // namespace finback::data
