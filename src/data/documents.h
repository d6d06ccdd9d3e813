// Text files as documents. A file is read in chunks that can be tokenised apart, by many threads, with the ids that the whole
// would give: a chunk of text ends where the pre-tokenizer ends a piece, after a line break and before an ASCII letter or digit.
#pragma once

#include "data/byte_stream.h"
#include "text/pretokenizer.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace finback::data {

enum class Format { text, jsonl };

struct DocumentFormat {
  Format format = Format::text;
  // What divides a text file into documents.
  enum class Split { none, blank_line, line, marker } split = Split::none;
  std::string marker;          // of Split::marker; left out of the documents
  std::string field = "text";  // of a JSON line
  bool skip_bad_lines = false;
  bool cut_documents = true;  // false where the pre-tokenizer does not (ends_pieces_at_line_breaks): a text file is one chunk
  std::size_t chunk_bytes = 256 << 10;
};

struct Chunk {
  std::string text;
  std::int64_t line = 1;  // number of its first line
  bool ends_file = false;
};

// Whether a piece always ends between a line break and a letter or digit. All published chains do so; one that takes "\s?" before
// letters without dividing lines first does not.
bool ends_pieces_at_line_breaks(const text::PreTokenizer& pre_tokenizer);

class ChunkReader {
 public:
  static constexpr std::size_t kMaxChunkBytes = std::size_t{1} << 30;

  // offset, line: where to begin (0 and 1, or what offset() and line() were). Throws Error(io), Error(bad_input).
  ChunkReader(const std::string& path, const DocumentFormat& format, std::uint64_t offset = 0, std::int64_t line = 1);

  // False at the end of the file. A chunk has about chunk_bytes, more where there is no place to end it. Throws Error(bad_input)
  // for zero bytes at the beginning of a text file (it is binary) and for kMaxChunkBytes without such a place.
  bool next(Chunk& chunk);

  std::uint64_t offset() const { return offset_; }  // of the next chunk in the decompressed file
  std::int64_t line() const { return line_; }
  const ByteStream& stream() const { return stream_; }

 private:
  std::size_t find_cut(std::size_t least) const;

  ByteStream stream_;
  const DocumentFormat& format_;
  std::string buffer_;
  std::uint64_t offset_;
  std::int64_t line_;
  bool at_end_ = false;
};

// A document or, of one that goes on in the next chunk, a part. ends: nothing follows.
using TakeText = std::function<void(std::string_view text, bool ends)>;

// The documents of a chunk in order; path is for errors. A document may have begun in the chunk before: if it ended there, the
// first call has an empty text. Returns how many lines were skipped as bad. Throws Error(bad_input) naming file, line and remedy.
std::int64_t for_each_document(const Chunk& chunk, const DocumentFormat& format, const std::string& path, const TakeText& take);

}  // namespace finback::data
