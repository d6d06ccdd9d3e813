#include "data/token_split.h"

#include <algorithm>
#include <unordered_map>

namespace finback::data {
namespace {

bool is_break(char c) { return c == '\n' || c == '\r'; }

bool is_punctuation(char c) {
  const auto b = static_cast<unsigned char>(c);
  return b >= 0x80 || (b > ' ' && b < 0x7F && !((b >= '0' && b <= '9') || (b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z')));
}

}  // namespace

std::size_t punctuation_before_breaks(std::string_view token) {
  std::size_t n = token.size();
  while (n > 0 && is_break(token[n - 1])) --n;
  if (n == token.size()) return 0;
  std::string_view head = token.substr(0, n);
  if (!head.empty() && head[0] == ' ') head.remove_prefix(1);
  return !head.empty() && std::all_of(head.begin(), head.end(), is_punctuation) ? n : 0;
}

SplitTable::SplitTable(std::span<const std::string> token_bytes) : head_(token_bytes.size(), -1), tail_(token_bytes.size(), -1) {
  std::unordered_map<std::string_view, std::int32_t> id_of;
  for (std::size_t id = 0; id < token_bytes.size(); ++id) id_of.emplace(token_bytes[id], static_cast<std::int32_t>(id));
  for (std::size_t id = 0; id < token_bytes.size(); ++id) {
    const std::string_view token = token_bytes[id];
    const std::size_t n = punctuation_before_breaks(token);
    if (n == 0) continue;
    const auto head = id_of.find(token.substr(0, n)), tail = id_of.find(token.substr(n));
    if (head == id_of.end() || tail == id_of.end()) continue;
    head_[id] = head->second;
    tail_[id] = tail->second;
  }
}

std::int64_t SplitTable::size() const {
  return std::count_if(head_.begin(), head_.end(), [](std::int32_t id) { return id >= 0; });
}

}  // namespace finback::data
