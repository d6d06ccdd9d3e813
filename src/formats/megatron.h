// Token files as Megatron-LM's IndexedDataset writes them: PREFIX.bin holds the tokens of all sequences, PREFIX.idx says
// where each begins (megatron/core/datasets/indexed_dataset.py). The index, little-endian, without padding:
//
//   "MMIDIDX\0\0"  9 bytes    magic
//   u64            version    1
//   u8             dtype      8 = uint16, 4 = int32 (the two that text uses; others are refused)
//   u64            S          sequences
//   u64            D + 1      documents and one
//   i32[S]         length     tokens of each sequence
//   i64[S]         pointer    byte in PREFIX.bin where it begins
//   i64[D + 1]     document   its first sequence; the last entry is S
#pragma once

#include "core/file.h"
#include "core/tensor.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace finback::formats {

class TokenFile {
 public:
  // PREFIX, PREFIX.bin or PREFIX.idx. Throws Error(io) if one of the two cannot be opened, Error(bad_input) for an index
  // that contradicts itself or the size of PREFIX.bin. A file of no sequences is valid.
  explicit TokenFile(const std::string& path);

  std::int64_t sequences() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t documents() const { return static_cast<std::int64_t>(documents_.size()) - 1; }
  std::int64_t tokens() const { return tokens_; }  // of all sequences
  core::DType dtype() const { return dtype_; }     // u16 or i32
  const std::string& path() const { return bin_.path(); }

  std::int64_t length(std::int64_t sequence) const { return lengths_[static_cast<std::size_t>(sequence)]; }
  // Document d is sequences first_sequence(d) … first_sequence(d + 1) - 1; d = documents() gives sequences().
  std::int64_t first_sequence(std::int64_t document) const { return documents_[static_cast<std::size_t>(document)]; }

  // Tokens first … first + out.size() - 1 of a sequence. Ids are as in the file: whether each is below vocab_size is for
  // the caller to check. Throws Error(io) if the file became shorter. May be called by many threads.
  void read(std::int64_t sequence, std::int64_t first, std::span<std::int32_t> out) const;

 private:
  core::InputFile bin_;
  core::DType dtype_ = core::DType::u16;
  std::int64_t tokens_ = 0;
  std::vector<std::int32_t> lengths_;
  std::vector<std::int64_t> pointers_, documents_;
};

// The smaller type that holds every id below vocab_size.
core::DType token_dtype(std::int64_t vocab_size);

// Writes into `index` (and does not commit it) the index of a PREFIX.bin whose sequences lie there one behind the other.
// documents: each one's first sequence, and lengths.size() at the end.
void write_token_index(core::AtomicFile& index, core::DType dtype, std::span<const std::int32_t> lengths,
                       std::span<const std::int64_t> documents);

// Writes both files in one pass. Nothing appears under their names before commit(); PREFIX.bin appears first and
// an older PREFIX.idx goes before it, so that an index never stands beside other tokens than its own.
class TokenFileWriter {
 public:
  TokenFileWriter(const std::string& prefix, core::DType dtype);  // u16 or i32
  // A document of one sequence. Throws Error(bad_input) for an id that the type cannot hold or more than 2^31 - 1 tokens.
  void add_document(std::span<const std::int32_t> ids);
  // All documents of another file of the same dtype, in order (joins the parts that workers wrote).
  void add_file(const TokenFile& file);
  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return static_cast<std::int64_t>(documents_.size()) - 1; }
  void commit();

 private:
  void add_sequence(std::span<const std::int32_t> ids);

  std::string prefix_;
  core::AtomicFile bin_;
  core::DType dtype_;
  std::int64_t tokens_ = 0;
  std::vector<std::int32_t> lengths_;
  std::vector<std::int64_t> documents_{0};
  std::vector<std::uint16_t> narrow_;
};

}  // namespace finback::formats
