#include "formats/megatron.h"

#include "core/error.h"

#include <cstring>
#include <limits>

namespace finback::formats {
namespace {

using core::DType;
using core::Error;
using core::Exit;

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr std::uint8_t kUint16 = 8, kInt32 = 4;
constexpr const char* kRemedy = "write the pair again with 'finback data pack'";

// What comes before the arrays.
struct [[gnu::packed]] Header {
  char magic[9];
  std::uint64_t version;
  std::uint8_t dtype;
  std::uint64_t sequences;
  std::uint64_t document_entries;
};
static_assert(sizeof(Header) == 34);

std::string prefix_of(const std::string& path) {
  const std::string_view end = path.size() > 4 ? std::string_view(path).substr(path.size() - 4) : std::string_view();
  return end == ".bin" || end == ".idx" ? path.substr(0, path.size() - 4) : path;
}

}  // namespace

DType token_dtype(std::int64_t vocab_size) { return vocab_size <= 65536 ? DType::u16 : DType::i32; }

TokenFile::TokenFile(const std::string& path) : bin_(prefix_of(path) + ".bin") {
  const core::InputFile index(prefix_of(path) + ".idx");
  const auto refuse = [&](const std::string& what) -> Error { return {Exit::bad_input, what, index.path(), kRemedy}; };

  Header h;
  if (index.size() < sizeof h) throw refuse(fmt::format("an index of {} bytes, the header alone has {}", index.size(), sizeof h));
  index.read(&h, sizeof h, 0);
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) throw refuse("not a Megatron index, it does not begin with MMIDIDX");
  if (const std::uint64_t version = h.version; version != 1) throw refuse(fmt::format("index version {}, 1 is supported", version));
  if (h.dtype != kUint16 && h.dtype != kInt32)
    throw refuse(fmt::format("token type code {}, supported are {} (uint16) and {} (int32)", h.dtype, kUint16, kInt32));
  dtype_ = h.dtype == kUint16 ? DType::u16 : DType::i32;

  // Both counts are bounded by the file before anything is computed from them.
  const std::uint64_t S = h.sequences, D1 = h.document_entries, body = index.size() - sizeof h;
  if (S > body / 12 || D1 > body / 8 || 12 * S + 8 * D1 != body)
    throw refuse(fmt::format("{} sequences and {} document entries do not fit the {} bytes after the header", S, D1, body));
  if (D1 == 0) throw refuse("no document entries, at least one is written even for an empty file");

  lengths_.resize(S);
  pointers_.resize(S);
  documents_.resize(D1);
  index.read(lengths_.data(), 4 * S, sizeof h);
  index.read(pointers_.data(), 8 * S, sizeof h + 4 * S);
  index.read(documents_.data(), 8 * D1, sizeof h + 12 * S);

  const std::uint64_t size = static_cast<std::uint64_t>(core::size_of(dtype_));
  for (std::uint64_t s = 0; s < S; ++s) {
    if (lengths_[s] < 0) throw refuse(fmt::format("sequence {} has length {}", s, lengths_[s]));
    const std::uint64_t bytes = static_cast<std::uint64_t>(lengths_[s]) * size;
    if (pointers_[s] < 0 || bytes > bin_.size() || static_cast<std::uint64_t>(pointers_[s]) > bin_.size() - bytes)
      throw refuse(fmt::format("sequence {} of {} tokens at byte {} does not fit {} of {} bytes", s, lengths_[s], pointers_[s], bin_.path(),
                               bin_.size()));
    // Sequences may share bytes, so the sum is not bounded by the file; 2^31 · S cannot overflow for an S that fits a disk.
    tokens_ += lengths_[s];
  }
  std::int64_t previous = 0;
  for (std::uint64_t d = 0; d < D1; ++d) {
    if (documents_[d] < previous || documents_[d] > static_cast<std::int64_t>(S) || (d == 0 && documents_[d] != 0))
      throw refuse(fmt::format("document {} begins at sequence {}, after one that begins at {}", d, documents_[d], previous));
    previous = documents_[d];
  }
  if (previous != static_cast<std::int64_t>(S)) throw refuse(fmt::format("the documents end at sequence {} of {}", previous, S));
}

void TokenFile::read(std::int64_t sequence, std::int64_t first, std::span<std::int32_t> out) const {
  const auto n = static_cast<std::int64_t>(out.size());
  FB_CHECK(sequence >= 0 && sequence < sequences(), "sequence {} of {}", sequence, sequences());
  FB_CHECK(first >= 0 && n <= length(sequence) - first, "tokens {} … {} of {}", first, first + n, length(sequence));
  const auto begin = static_cast<std::uint64_t>(pointers_[static_cast<std::size_t>(sequence)]);
  const auto at = begin + static_cast<std::uint64_t>(first * core::size_of(dtype_));
  if (dtype_ == DType::i32) return bin_.read(out.data(), out.size_bytes(), at);
  // The narrow ids go into the upper half of `out`, and are widened from the front: each is read before it is overwritten.
  auto* narrow = reinterpret_cast<std::byte*>(out.data()) + out.size_bytes() / 2;
  bin_.read(narrow, out.size_bytes() / 2, at);
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t id;
    std::memcpy(&id, narrow + 2 * i, 2);
    out[i] = id;
  }
}

void write_token_index(core::AtomicFile& index, DType dtype, std::span<const std::int32_t> lengths,
                       std::span<const std::int64_t> documents) {
  Header h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = 1;
  h.dtype = dtype == DType::u16 ? kUint16 : kInt32;
  h.sequences = lengths.size();
  h.document_entries = documents.size();
  index.write(&h, sizeof h);
  index.write(lengths.data(), lengths.size_bytes());
  std::int64_t pointer = 0;
  for (const std::int32_t n : lengths) {
    index.write(&pointer, sizeof pointer);
    pointer += n * core::size_of(dtype);
  }
  index.write(documents.data(), documents.size_bytes());
}

TokenFileWriter::TokenFileWriter(const std::string& prefix, DType dtype)
    : prefix_(prefix_of(prefix)), bin_(prefix_ + ".bin"), dtype_(dtype) {
  FB_CHECK(dtype == DType::u16 || dtype == DType::i32, "{}", core::name_of(dtype));
}

void TokenFileWriter::add_sequence(std::span<const std::int32_t> ids) {
  if (ids.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    throw Error(Exit::bad_input, fmt::format("a document of {} tokens, at most 2^31 - 1 fit an index", ids.size()), prefix_ + ".idx",
                "split the document");
  const std::int32_t limit = dtype_ == DType::u16 ? 65535 : std::numeric_limits<std::int32_t>::max();
  for (const std::int32_t id : ids)
    if (id < 0 || id > limit)
      throw Error(Exit::bad_input, fmt::format("token id {} does not fit {}", id, core::name_of(dtype_)), prefix_ + ".bin",
                  "use ids of the tokenizer that vocab_size was taken from");
  if (dtype_ == DType::u16) {
    narrow_.assign(ids.begin(), ids.end());
    bin_.write(narrow_.data(), narrow_.size() * 2);
  } else {
    bin_.write(ids.data(), ids.size_bytes());
  }
  lengths_.push_back(static_cast<std::int32_t>(ids.size()));
  tokens_ += static_cast<std::int64_t>(ids.size());
}

void TokenFileWriter::add_document(std::span<const std::int32_t> ids) {
  add_sequence(ids);
  documents_.push_back(static_cast<std::int64_t>(lengths_.size()));
}

void TokenFileWriter::add_file(const TokenFile& file) {
  FB_CHECK(file.dtype() == dtype_, "{} and {}", core::name_of(file.dtype()), core::name_of(dtype_));
  std::vector<std::int32_t> ids;
  for (std::int64_t d = 0; d < file.documents(); ++d) {
    for (std::int64_t s = file.first_sequence(d); s < file.first_sequence(d + 1); ++s) {
      ids.resize(static_cast<std::size_t>(file.length(s)));
      file.read(s, 0, ids);
      add_sequence(ids);
    }
    documents_.push_back(static_cast<std::int64_t>(lengths_.size()));
  }
}

void TokenFileWriter::commit() {
  core::AtomicFile index(prefix_ + ".idx");
  write_token_index(index, dtype_, lengths_, documents_);
  core::sys::remove_tree(prefix_ + ".idx");  // an older one must never stand beside the new tokens
  bin_.commit();
  index.commit();
}

}  // namespace finback::formats
