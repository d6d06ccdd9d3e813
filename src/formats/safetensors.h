// safetensors: u64 N, N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …}, then the tensors' bytes
// without gaps. Read by the rules of the reference implementation (huggingface/safetensors, safetensors/src/tensor.rs), each of
// which closes a hole that some loader had; violations are Error(bad_input) with the tensor's name or the byte.
#pragma once

#include "core/file.h"
#include "core/tensor.h"
#include "formats/hash.h"
#include "formats/manifest.h"

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace finback::formats {

struct TensorInfo {
  std::string name;
  std::string dtype;                 // as in the file: "BF16", "F8_E4M3", …
  std::vector<std::int64_t> shape;   // empty: a scalar
  std::uint64_t begin = 0, end = 0;  // bytes of the file
  std::uint64_t bytes() const { return end - begin; }
  std::string shape_text() const;  // "[2, 3]"
};

// The type of ours for a safetensors dtype, if there is one, and back.
std::optional<core::DType> dtype_of(std::string_view safetensors_name);
std::string_view safetensors_name(core::DType dtype);

// A file's first bytes, up to where the tensors' data begin.
struct SafetensorsHead {
  std::vector<TensorInfo> tensors;  // in the order of their bytes, from 0 to the file's size
  std::map<std::string, std::string> metadata;
  std::string text;              // the header's length, its JSON and the spaces after it
  std::uint64_t file_bytes = 0;  // with all data
};
// Reads one: `text` without the eight bytes of its length, of a file that is `file_bytes` long. Throws Error(bad_input).
SafetensorsHead parse_head(std::string_view text, std::uint64_t file_bytes, const std::string& path);
// Makes one: begin and end of `tensors` are set, one after the other. The data begin at a multiple of 64.
SafetensorsHead make_head(std::vector<TensorInfo> tensors, const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in the order of their bytes
  const TensorInfo* find(std::string_view name) const;                 // null: not in this file
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::string head_text() const;  // the header as it stands in the file, without its length; read again
  const std::string& path() const { return file_.path(); }
  std::uint64_t size() const { return file_.size(); }

  // Bytes first … first + size - 1 of a tensor. Throws Error(io) if the file became shorter. May be called by many threads.
  void read(const TensorInfo& tensor, void* out, std::uint64_t first, std::uint64_t size) const;
  void read(const TensorInfo& tensor, void* out) const { read(tensor, out, 0, tensor.bytes()); }

 private:
  core::InputFile file_;
  std::uint64_t head_bytes_ = 0;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, const TensorInfo*> by_name_;
  std::map<std::string, std::string> metadata_;
};

// Writes a file of tensors whose shapes are known before: the header first, then the bytes in order. Data begin at a multiple of
// 64; put tensors of wider types first and every element lies aligned.
class SafetensorsWriter {
 public:
  struct Entry {
    std::string name;
    core::DType dtype;
    std::vector<std::int64_t> shape;
  };

  SafetensorsWriter(const std::string& path, std::vector<Entry> entries,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  // The next bytes of the current tensor; a tensor may be written in pieces, a piece may not span tensors.
  void write(const void* data, std::uint64_t size);
  // All tensors must be complete. The file appears under its name; `name` of the result is the path's last part.
  FileSum commit();

 private:
  void put(const void* data, std::uint64_t size);

  std::string path_;
  core::AtomicFile file_;
  std::vector<TensorSum> tensors_;
  std::size_t current_ = 0;       // tensor being written
  std::uint64_t written_ = 0;     // bytes of it
  std::uint64_t file_bytes_ = 0;  // bytes of the file so far
  Xxh3 file_hash_, tensor_hash_;
};

}  // namespace finback::formats
