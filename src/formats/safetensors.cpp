#include "formats/safetensors.h"

#include "core/error.h"
#include "core/json.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>

namespace finback::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "file formats are read and written as they lie in memory");

namespace json = boost::json;
using core::DType;
using core::Error;
using core::Exit;

constexpr std::uint64_t kMaxHeader = 100'000'000;
constexpr const char* kRemedy = "download or convert the file again";

struct StoredType {
  std::string_view name;
  unsigned bits;
  std::optional<DType> ours = std::nullopt;
};
constexpr auto kTypes = std::to_array<StoredType>({{"BOOL", 8},
                                                   {"F4", 4},
                                                   {"F6_E2M3", 6},
                                                   {"F6_E3M2", 6},
                                                   {"U8", 8, DType::u8},
                                                   {"I8", 8},
                                                   {"F8_E5M2", 8, DType::e5m2},
                                                   {"F8_E4M3", 8, DType::e4m3},
                                                   {"F8_E8M0", 8},
                                                   {"F8_E4M3FNUZ", 8},
                                                   {"F8_E5M2FNUZ", 8},
                                                   {"I16", 16},
                                                   {"U16", 16, DType::u16},
                                                   {"F16", 16, DType::f16},
                                                   {"BF16", 16, DType::bf16},
                                                   {"I32", 32, DType::i32},
                                                   {"U32", 32},
                                                   {"F32", 32, DType::f32},
                                                   {"C64", 64},
                                                   {"F64", 64, DType::f64},
                                                   {"I64", 64, DType::i64},
                                                   {"U64", 64}});

const StoredType* find_type(std::string_view name) {
  const auto it = std::find_if(kTypes.begin(), kTypes.end(), [&](const StoredType& t) { return t.name == name; });
  return it == kTypes.end() ? nullptr : &*it;
}

std::optional<std::uint64_t> as_unsigned(const json::value& v) {
  if (v.is_uint64()) return v.get_uint64();
  if (v.is_int64() && v.get_int64() >= 0) return static_cast<std::uint64_t>(v.get_int64());
  return std::nullopt;
}

// One entry of the header, offsets still relative to the data. The size its shape asks for is held against its offsets.
class EntryReader {
 public:
  EntryReader(std::string_view name, const std::string& path) : name_(name), path_(path) {}

  TensorInfo read(const json::value& value) const {
    if (!value.is_object()) throw refuse("is not an object");
    const json::object& o = value.get_object();
    for (const auto& field : o)
      if (field.key() != "dtype" && field.key() != "shape" && field.key() != "data_offsets")
        throw refuse(fmt::format("has an unknown field '{}'", std::string_view(field.key())));
    TensorInfo t;
    t.name = name_;

    const auto* dtype = o.if_contains("dtype");
    if (!dtype || !dtype->is_string()) throw refuse("has no dtype");
    t.dtype = std::string(dtype->get_string());
    const StoredType* type = find_type(t.dtype);
    if (!type) throw refuse(fmt::format("has the unknown dtype '{}'", t.dtype));

    const auto* shape = o.if_contains("shape");
    if (!shape || !shape->is_array()) throw refuse("has no shape");
    std::uint64_t elements = 1, bits = 0;
    for (const json::value& v : shape->get_array()) {
      const auto dim = as_unsigned(v);
      if (!dim || *dim > INT64_MAX) throw refuse(fmt::format("has a dimension {}, not an integer from 0 to 2^63 - 1", json::serialize(v)));
      if (__builtin_mul_overflow(elements, *dim, &elements)) throw refuse("has more elements than 2^64");
      t.shape.push_back(static_cast<std::int64_t>(*dim));
    }
    if (__builtin_mul_overflow(elements, std::uint64_t{type->bits}, &bits)) throw refuse("has more bits than 2^64");
    if (bits % 8 != 0) throw refuse(fmt::format("has {} bits, not whole bytes", bits));

    const auto* offsets = o.if_contains("data_offsets");
    if (!offsets || !offsets->is_array() || offsets->get_array().size() != 2) throw refuse("has no data_offsets [begin, end]");
    const auto begin = as_unsigned(offsets->get_array()[0]), end = as_unsigned(offsets->get_array()[1]);
    if (!begin || !end) throw refuse(fmt::format("has data_offsets {}, not two integers", json::serialize(*offsets)));
    if (*end < *begin) throw refuse(fmt::format("ends at byte {} before it begins at {}", *end, *begin));
    if (*end - *begin != bits / 8)
      throw refuse(fmt::format("has {} bytes, its shape {} of {} needs {}", *end - *begin, t.shape_text(), t.dtype, bits / 8));
    t.begin = *begin;
    t.end = *end;
    return t;
  }

 private:
  Error refuse(std::string_view what) const { return {Exit::bad_input, fmt::format("tensor '{}' {}", name_, what), path_, kRemedy}; }

  std::string_view name_;
  const std::string& path_;
};

}  // namespace

std::string TensorInfo::shape_text() const { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::optional<DType> dtype_of(std::string_view name) {
  const StoredType* t = find_type(name);
  return t ? t->ours : std::nullopt;
}

std::string_view safetensors_name(DType dtype) {
  for (const StoredType& t : kTypes)
    if (t.ours == dtype) return t.name;
  return {};
}

SafetensorsHead parse_head(std::string_view text, std::uint64_t file_bytes, const std::string& path) {
  const auto refuse = [&](std::string_view what) -> Error { return {Exit::bad_input, what, path, kRemedy}; };
  const std::uint64_t n = text.size(), data_begin = sizeof n + n;
  SafetensorsHead head;
  if (file_bytes < data_begin) throw refuse(fmt::format("file too short for header, {} of {} bytes", file_bytes, data_begin));
  head.file_bytes = file_bytes;
  head.text.assign(reinterpret_cast<const char*>(&n), sizeof n).append(text);
  if (text.empty() || text.front() != '{') throw refuse("the header does not begin with '{' at byte 8");
  if (const auto last = text.find_last_not_of(' '); text[last] != '}')
    throw refuse(fmt::format("the header ends with something else than '}}' and spaces at byte {}", 8 + last));
  const json::value value =
      core::parse_json(text, path + " header, which begins at byte 8", {.max_bytes = kMaxHeader, .max_depth = 8, .exit = Exit::bad_input});

  for (const auto& [key, entry] : value.get_object()) {
    if (key == "__metadata__") {
      if (!entry.is_object()) throw refuse("__metadata__ is not an object");
      for (const auto& [k, v] : entry.get_object()) {
        if (!v.is_string()) throw refuse(fmt::format("__metadata__ '{}' is not a string", std::string_view(k)));
        head.metadata.emplace(std::string(k), std::string(v.get_string()));
      }
    } else {
      head.tensors.push_back(EntryReader(key, path).read(entry));
    }
  }

  // The tensors' bytes must follow one another from the header's end to the file's: no hole, no overlap, no tail.
  std::sort(head.tensors.begin(), head.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name); });
  const std::uint64_t data_bytes = file_bytes - data_begin;
  std::uint64_t end = 0;
  std::string_view previous = "the header";
  for (TensorInfo& t : head.tensors) {
    if (t.begin != end)
      throw refuse(fmt::format("tensor '{}' begins at data byte {}, '{}' before it ends at {}: {}", t.name, t.begin, previous, end,
                               t.begin < end ? "they overlap" : "there is a hole between them"));
    if (t.end > data_bytes)
      throw refuse(
          fmt::format("tensor '{}' ends at data byte {}, after the file's last at {}: the file is cut short", t.name, t.end, data_bytes));
    end = t.end;
    previous = t.name;
    t.begin += data_begin;
    t.end += data_begin;
  }
  if (end != data_bytes) throw refuse(fmt::format("{} bytes after the last tensor, '{}'", data_bytes - end, previous));
  return head;
}

SafetensorsHead make_head(std::vector<TensorInfo> tensors, const std::map<std::string, std::string>& metadata) {
  json::object header;
  if (!metadata.empty()) {
    json::object& m = header["__metadata__"].emplace_object();
    for (const auto& [k, v] : metadata) m[k] = v;
  }
  header.reserve(tensors.size() + 1);
  std::uint64_t at = 0;
  for (TensorInfo& t : tensors) {
    FB_CHECK(!header.contains(t.name), "tensor '{}' twice", t.name);
    std::uint64_t bits = find_type(t.dtype)->bits;
    for (const std::int64_t dim : t.shape) bits *= static_cast<std::uint64_t>(dim);
    t.begin = at;
    t.end = at += bits / 8;
    header[t.name] = {{"dtype", t.dtype}, {"shape", json::array(t.shape.begin(), t.shape.end())}, {"data_offsets", {t.begin, t.end}}};
  }
  std::string text = json::serialize(header);
  text.append((64 - (8 + text.size()) % 64) % 64, ' ');
  const std::uint64_t n = text.size(), data_begin = sizeof n + n;
  for (TensorInfo& t : tensors) {
    t.begin += data_begin;
    t.end += data_begin;
  }
  SafetensorsHead head{std::move(tensors), metadata, {}, data_begin + at};
  head.text.assign(reinterpret_cast<const char*>(&n), sizeof n).append(text);
  return head;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const auto refuse = [&](std::string_view what) -> Error { return {Exit::bad_input, what, path, kRemedy}; };
  std::uint64_t n = 0;
  if (file_.size() < sizeof n) throw refuse(fmt::format("file too short for header, {} bytes", file_.size()));
  file_.read(&n, sizeof n, 0);
  if (n > kMaxHeader) throw refuse(fmt::format("header length {} at byte 0, at most {} is allowed", n, kMaxHeader));
  if (n > file_.size() - sizeof n) throw refuse(fmt::format("file too short for header, {} of {} bytes", file_.size(), sizeof n + n));
  head_bytes_ = n;
  SafetensorsHead head = parse_head(head_text(), file_.size(), path);
  tensors_ = std::move(head.tensors);
  metadata_ = std::move(head.metadata);
  for (const TensorInfo& t : tensors_) by_name_.emplace(t.name, &t);
}

std::string SafetensorsFile::head_text() const {
  std::string text(head_bytes_, '\0');
  file_.read(text.data(), text.size(), sizeof head_bytes_);
  return text;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

void SafetensorsFile::read(const TensorInfo& tensor, void* out, std::uint64_t first, std::uint64_t size) const {
  FB_CHECK(first <= tensor.bytes() && size <= tensor.bytes() - first, "bytes {} + {} of {}", first, size, tensor.bytes());
  file_.read(out, size, tensor.begin + first);
}

// ---- writing

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<Entry> entries,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), file_(path) {
  std::vector<TensorInfo> tensors;
  for (Entry& e : entries)
    tensors.push_back({.name = std::move(e.name), .dtype = std::string(safetensors_name(e.dtype)), .shape = std::move(e.shape)});
  const SafetensorsHead head = make_head(std::move(tensors), metadata);
  for (const TensorInfo& t : head.tensors) tensors_.push_back({t.name, t.begin, t.bytes(), 0});
  put(head.text.data(), head.text.size());
}

void SafetensorsWriter::put(const void* data, std::uint64_t size) {
  file_hash_.update(data, size);
  file_.write(data, size);
  file_bytes_ += size;
}

void SafetensorsWriter::write(const void* data, std::uint64_t size) {
  if (size == 0) return;
  while (current_ < tensors_.size() && tensors_[current_].bytes == 0) ++current_;
  FB_CHECK(current_ < tensors_.size() && size <= tensors_[current_].bytes - written_, "{} bytes too many for {}", size, path_);
  TensorSum& t = tensors_[current_];
  tensor_hash_.update(data, size);
  put(data, size);
  written_ += size;
  if (written_ < t.bytes) return;
  t.xxh3 = tensor_hash_.digest64();
  tensor_hash_ = Xxh3();
  ++current_;
  written_ = 0;
}

FileSum SafetensorsWriter::commit() {
  while (current_ < tensors_.size() && tensors_[current_].bytes == 0) ++current_;
  FB_CHECK(current_ == tensors_.size(), "tensor {} of {} is not complete", current_, tensors_.size());
  for (TensorSum& t : tensors_)
    if (t.bytes == 0) t.xxh3 = Xxh3().digest64();
  file_.commit();
  return {std::filesystem::path(path_).filename().string(), file_bytes_, file_hash_.digest128(), std::move(tensors_)};
}

}  // namespace finback::formats
