// Random splitting of tokens that join punctuation and line breaks. The pre-tokenizer makes such tokens (".\n\n"), so a prompt that
// ends in "." looks unlike anything seen in training; a share of them is therefore split in training [V3 §4.1].
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace finback::data {

// How many bytes of a token come before its line breaks, if it is of this kind; else 0. Before the breaks stand, after at most
// one space, only ASCII punctuation and bytes of characters beyond ASCII (the pre-tokenizer joins breaks to nothing else).
std::size_t punctuation_before_breaks(std::string_view token);

// For each token id of this kind, the two tokens that it may be split into.
class SplitTable {
 public:
  SplitTable() = default;  // splits nothing
  // token_bytes[id]. Tokens of which a part is not a token itself are left whole.
  explicit SplitTable(std::span<const std::string> token_bytes);

  bool contains(std::int32_t id) const { return static_cast<std::size_t>(id) < head_.size() && head_[static_cast<std::size_t>(id)] >= 0; }
  std::int32_t head(std::int32_t id) const { return head_[static_cast<std::size_t>(id)]; }
  std::int32_t tail(std::int32_t id) const { return tail_[static_cast<std::size_t>(id)]; }
  std::int64_t size() const;  // tokens that can be split

 private:
  std::vector<std::int32_t> head_, tail_;  // [vocab_size]; −1: left whole
};

}  // namespace finback::data
