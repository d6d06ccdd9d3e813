// The training data of a run: packed sequences drawn from several sources in the proportion of their weights. What stands at a
// position is a function of (options, files, position) alone, so a resumed run needs no more than the number of sequences drawn.
#pragma once

#include "data/source.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace finback::data {

class Stream {
 public:
  // paths: PREFIX or PREFIX.bin of token files, or kSynthetic alone (synthetic.h). weights: shares of the sequences drawn, any positive
  // scale; empty: in proportion to the files' tokens. Throws Error(usage) for options that contradict each other, Error(bad_input),
  // Error(io).
  Stream(std::span<const std::string> paths, std::span<const double> weights, StreamOptions options);

  // Sequences position, position + 1, … of the run, as many as fit: inputs and targets are [sequences · seq_len]; target −1 is not
  // scored. A micro-batch, and a rank's part of a batch, is a slice of positions. For one thread.
  void fill(std::int64_t position, std::span<std::int32_t> inputs, std::span<std::int32_t> targets);

  const StreamOptions& options() const { return options_; }
  std::vector<Source>& sources() { return sources_; }
  // Of the files (their indices, sizes and samples of their tokens): a run goes on with the same data only.
  const std::string& fingerprint() const { return fingerprint_; }

  // Which source a position draws from, and the how-manieth of that source's sequences it is (from 0).
  struct Draw {
    std::size_t source;
    std::int64_t number;
  };
  Draw draw(std::int64_t position) const;

 private:
  StreamOptions options_;
  std::vector<Source> sources_;
  std::vector<double> share_;  // of each source; they sum to 1
  std::size_t heaviest_ = 0;
  std::int64_t block_ = 1;
  std::string fingerprint_;
};

// The validation data: all tokens of a file after one eos, in windows of at most seq_len. Each token is a target exactly once, the
// first of each window after one token of context.
class Windows {
 public:
  Windows(const std::string& path, std::int64_t seq_len, std::int64_t vocab_size, std::int32_t eos_id);

  std::int64_t count() const { return (file_.tokens() + seq_len_ - 1) / seq_len_; }
  std::int64_t tokens() const { return file_.tokens(); }
  // Windows first, first + 1, … as [windows · seq_len]; behind the last token inputs are eos and targets −1.
  void fill(std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const;

  const formats::TokenFile& file() const { return file_; }

 private:
  formats::TokenFile file_;
  std::int64_t seq_len_, vocab_size_;
  std::int32_t eos_id_;
  std::vector<std::int64_t> sequence_begin_;  // first token of each of the file's sequences
};

// Of one token file.
std::string fingerprint(const formats::TokenFile& file);

}  // namespace finback::data
