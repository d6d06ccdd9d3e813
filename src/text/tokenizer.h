// The tokenizer: text to token ids and back. Ids equal those of the Hugging Face `tokenizers` package on valid UTF-8.
// Bytes that are not valid UTF-8 are encoded too, and every encoding decodes to the same bytes: to the pre-tokenizer each
// such byte is a code point without a class, to the merges it is a byte like any other. One exception: DeepSeek-V2's
// vocabulary has no tokens for the 13 bytes that valid UTF-8 never holds (C0, C1, F5 … FF); these become U+FFFD there.
#pragma once

#include "core/team.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace finback::text {

// Everything that defines a tokenizer; readers and the trainer make one.
struct Vocabulary {
  std::vector<std::string> tokens;    // the bytes of each id; for a special token its text
  std::vector<Merge> merges;          // each pair once
  std::vector<std::int32_t> special;  // ids of the special tokens ("added tokens"), which the merges never make
  bool whole_pieces = false;          // a piece that is a token is that token, whatever the merges make of it (ignore_merges)
  bool tiktoken = false;              // read from a tiktoken.model: a merge's rank is the id it makes
  PreTokenizer pre_tokenizer = PreTokenizer::deepseek_v3();
  std::string bos, eos, pad;  // texts of special tokens; empty: none
  bool add_bos = false;       // a sequence begins with bos (tokenizer_config.json's add_bos_token); encode() never adds it
};

class Tokenizer {
 public:
  // A tokenizer.json, or a folder with one or with a tiktoken.model (Moonlight, Kimi-K2); tokenizer_config.json beside it
  // names bos, eos and pad. Throws Error(io) if it cannot be read, Error(bad_input) naming file, field and remedy.
  static Tokenizer load(const std::string& path);
  explicit Tokenizer(Vocabulary vocabulary);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Writes tokenizer.json and tokenizer_config.json, or tiktoken.model and tokenizer_config.json where it came from such.
  void save(const std::string& folder) const;

  // The ids of the text. With allow_special, texts of special tokens become these tokens (leftmost, then longest);
  // without, they are text like any other. Safe to call from several threads.
  std::vector<std::int32_t> encode(std::string_view text, bool allow_special = false) const;
  // Appends to `out`; at most text.size() ids, so that a caller who reserves as much sees no allocation.
  void encode_into(std::string_view text, bool allow_special, std::vector<std::int32_t>& out) const;
  // Many texts on all threads of the team.
  std::vector<std::vector<std::int32_t>> encode_all(core::Team& team, std::span<const std::string_view> texts,
                                                    bool allow_special = false) const;

  // The bytes of the ids. Throws Error(bad_input) at an id outside of the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;
  std::string_view token_bytes(std::int32_t id) const;

  std::int32_t vocab_size() const { return static_cast<std::int32_t>(vocabulary_.tokens.size()); }
  std::int32_t bos_id() const { return bos_; }  // -1: none
  std::int32_t eos_id() const { return eos_; }
  std::int32_t pad_id() const { return pad_; }
  bool add_bos() const { return vocabulary_.add_bos; }
  bool is_special(std::int32_t id) const { return special_by_id_[static_cast<std::size_t>(id)]; }
  // The id of a special token by its text.
  std::optional<std::int32_t> id_of(std::string_view special) const;

  struct Fim {
    std::int32_t begin, hole, end;
  };
  std::optional<Fim> fim() const { return fim_; }  // the three markers of fill-in-the-middle, where all are there

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Encoders;
  class Lease;
  void encode_plain(std::string_view text, PieceEncoder& encoder, std::vector<std::int32_t>& out) const;
  void encode_with(PieceEncoder& encoder, std::string_view text, bool allow_special, std::vector<std::int32_t>& out) const;
  // The longest special token that begins at text[0]; -1 if none.
  std::int32_t special_at(std::string_view text) const;

  Vocabulary vocabulary_;
  std::unique_ptr<BpeModel> model_;
  std::unordered_map<std::string_view, std::int32_t> whole_;         // bytes → id, filled for whole_pieces
  std::vector<std::pair<std::string_view, std::int32_t>> specials_;  // sorted by text
  std::array<bool, 256> special_begins_{};
  std::string lacking_;  // the bytes without a token
  std::vector<bool> special_by_id_;
  std::int32_t bos_ = -1, eos_ = -1, pad_ = -1;
  std::optional<Fim> fim_;
  std::unique_ptr<Encoders> encoders_;  // idle ones, each with its cache
};

}  // namespace finback::text
