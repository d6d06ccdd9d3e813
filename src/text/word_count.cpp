#include "text/word_count.h"

#include <cstring>

namespace finback::text {
namespace {

constexpr std::size_t kPartBytes = 1 << 20;

std::uint64_t hash_of(std::string_view s) {
  std::uint64_t h = s.size() * 0x9E3779B97F4A7C15;
  const auto add = [&](std::uint64_t word) {
    const unsigned __int128 product = static_cast<unsigned __int128>(h ^ word) * 0xD1B54A32D192ED03;
    h = static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  };
  const char* p = s.data();
  std::size_t left = s.size();
  for (; left > 8; left -= 8, p += 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    add(word);
  }
  std::uint64_t tail = 0;
  std::memcpy(&tail, p, left);
  add(tail);
  return h;
}

// Open addressing; the words themselves stay in the texts.
class WordMap {
 public:
  void add(std::string_view word, std::int64_t count) {
    if ((used_ + 1) * 2 > slots_.size()) grow();
    Slot& slot = find(word, hash_of(word));
    if (slot.word.bytes.data() == nullptr) ++used_;
    else word = slot.word.bytes;
    slot.word = {word, slot.word.count + count};
  }
  template <class F>
  void each(F&& f) const {
    for (const Slot& slot : slots_)
      if (slot.word.bytes.data() != nullptr) f(slot.word);
  }
  std::size_t size() const { return used_; }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    CountedWord word{{}, 0};
  };
  Slot& find(std::string_view word, std::uint64_t hash) {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t i = hash & mask;; i = (i + 1) & mask) {
      Slot& slot = slots_[i];
      if (slot.word.bytes.data() == nullptr) slot.hash = hash;
      else if (slot.hash != hash || slot.word.bytes != word) continue;
      return slot;
    }
  }
  void grow() {
    std::vector<Slot> old(slots_.empty() ? 1024 : slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.word.bytes.data() != nullptr) find(slot.word.bytes, slot.hash).word = slot.word;
  }
  std::vector<Slot> slots_;
  std::size_t used_ = 0;
};

}  // namespace

std::vector<std::string_view> cut_between_pieces(std::span<const std::string_view> texts, std::size_t target) {
  std::vector<std::string_view> parts;
  for (std::string_view text : texts) {
    while (text.size() > target) {
      std::size_t cut = target;
      const auto may_cut = [&] {
        const CodePoint next = decode_utf8(text.data() + cut, text.data() + text.size());
        return (ClassTable::get().of(next.code) & kSpace) == 0;
      };
      do {
        const void* newline = std::memchr(text.data() + cut, '\n', text.size() - cut);
        cut = newline == nullptr ? text.size() : static_cast<std::size_t>(static_cast<const char*>(newline) - text.data()) + 1;
      } while (cut < text.size() && !may_cut());
      parts.push_back(text.substr(0, cut));
      text.remove_prefix(cut);
    }
    if (!text.empty()) parts.push_back(text);
  }
  return parts;
}

std::vector<CountedWord> count_words(std::span<const std::string_view> texts, const PreTokenizer& pre_tokenizer, core::Team& team) {
  const std::vector<std::string_view> parts = cut_between_pieces(texts, kPartBytes);
  std::vector<WordMap> maps(static_cast<std::size_t>(team.threads()));
  core::parallel_for(team, static_cast<std::int64_t>(parts.size()), [&](std::int64_t part, int thread) {
    WordMap& map = maps[static_cast<std::size_t>(thread)];
    pre_tokenizer.split(parts[static_cast<std::size_t>(part)], [&](const char* p, const char* q) {
      map.add({p, static_cast<std::size_t>(q - p)}, 1);
    });
  });
  for (std::size_t i = 1; i < maps.size(); ++i) {
    maps[i].each([&](const CountedWord& word) { maps[0].add(word.bytes, word.count); });
    maps[i] = {};
  }
  std::vector<CountedWord> words;
  words.reserve(maps[0].size());
  maps[0].each([&](const CountedWord& word) { words.push_back(word); });
  return words;
}

}  // namespace finback::text
