// The bytes of a text file from its beginning on, decompressed where its name ends in .zst.
#pragma once

#include "core/file.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace finback::data {

class ByteStream {
 public:
  // Throws Error(io) if the file cannot be opened.
  explicit ByteStream(const std::string& path);
  ~ByteStream();

  // As many bytes as there are, at most out.size(); 0 at the end. Throws Error(bad_input) for damaged or cut compressed data.
  std::size_t read(std::span<char> out);
  // Leaves out the next n bytes; throws Error(bad_input) if there are not as many.
  void skip(std::uint64_t n);

  // Bytes of the file itself, for progress.
  std::uint64_t consumed() const { return offset_; }
  std::uint64_t size() const { return file_.size(); }
  const std::string& path() const { return file_.path(); }

 private:
  struct Zstd;
  std::size_t read_compressed(std::span<char> out);

  core::InputFile file_;
  std::uint64_t offset_ = 0;
  std::unique_ptr<Zstd> zstd_;  // null: plain
};

}  // namespace finback::data
