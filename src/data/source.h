// One token file as an endless supply of packed sequences. In each epoch its documents are cut into pieces no longer than a
// sequence, some are turned into fill-in-the-middle examples, and the pieces are packed (packing.h); the sequences then come
// in a random order. All of it is a function of the seed, the file and the sequence's number.
#pragma once

#include "data/fim.h"
#include "data/packing.h"
#include "data/permutation.h"
#include "data/token_split.h"
#include "formats/megatron.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace finback::data {

struct StreamOptions {
  std::int64_t seq_len = 0, vocab_size = 0;
  std::uint64_t seed = 0;
  std::int32_t eos_id = 1;  // closes a fill-in-the-middle example, and fills what a sequence has left
  double fim_rate = 0;      // share of documents (pieces, of documents longer than a sequence)
  FimTokens fim;
  double token_split_rate = 0;  // share of the tokens that `splits` contains
  SplitTable splits;
};

// Stored tokens begin … begin + length - 1 of a document. Splitting and the marks of fill-in-the-middle make it longer.
struct Piece {
  std::uint32_t document, begin, length;
  bool fim, ends;  // ends: the document's last token is in it
};

class Source {
 public:
  // Throws Error(bad_input) if the file holds no tokens or a document of 2^32 or more.
  Source(const std::string& path, const StreamOptions& options, std::uint64_t seed);

  // The sequence's seq_len + 1 tokens as inputs and, one place on, targets; targets behind the last token are −1. Allocates only
  // when `number` is in another epoch than the last two. Throws Error(bad_input) for an id beyond vocab_size, Error(io).
  void fill(std::int64_t number, std::span<std::int32_t> inputs, std::span<std::int32_t> targets);

  std::int64_t sequences_in_epoch(std::int64_t epoch);
  const formats::TokenFile& file() const { return file_; }

 private:
  struct Epoch {
    std::int64_t number = -1;
    std::vector<Piece> pieces;
    Packing packing;
  };
  const Epoch& epoch(std::int64_t number);
  void cut(std::int64_t epoch, std::uint32_t document, Epoch& out, std::vector<std::int32_t>& lengths);
  void find_splits(std::int64_t epoch, std::uint32_t document);
  void append(const Piece& piece, std::int64_t epoch);
  void read(std::uint32_t document, std::int64_t begin, std::span<std::int32_t> out) const;
  bool is_split(std::int64_t epoch, std::uint32_t document, std::int64_t position, std::int32_t id) const;
  std::int64_t tokens_of(std::uint32_t document) const;

  formats::TokenFile file_;
  const StreamOptions options_;
  const std::uint64_t seed_;
  std::vector<std::int64_t> epoch_begin_{0};  // number of the first sequence of each epoch met so far
  std::array<Epoch, 2> recent_;               // even and odd epochs
  std::vector<std::int64_t> splits_;          // places in the document at hand whose token is split
  std::vector<std::int32_t> stored_, content_, sequence_;
};

}  // namespace finback::data
