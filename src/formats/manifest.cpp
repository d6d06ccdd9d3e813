#include "formats/manifest.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "formats/hash.h"
#include "formats/safetensors.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>

namespace finback::formats {
namespace {

namespace json = boost::json;
using core::Error;
using core::Exit;

constexpr std::int64_t kFormatVersion = 1;
constexpr std::string_view kNoChecksum = "00000000000000000000000000000000";
constexpr std::uint64_t kChunk = 4 << 20;

// Reads `bytes` from `begin` on in chunks; gives each to `use`.
template <class Use>
void for_each_chunk(const core::InputFile& file, std::uint64_t begin, std::uint64_t bytes, Use&& use) {
  std::string buffer(std::min(kChunk, bytes), '\0');
  while (bytes > 0) {
    const std::uint64_t n = std::min<std::uint64_t>(kChunk, bytes);
    file.read(buffer.data(), n, begin);
    use(buffer.data(), n);
    begin += n;
    bytes -= n;
  }
}

// One pass over the file: its own hash, and one of each tensor. `tensors` lie one after the other, with a header before.
FileSum hash_file(const std::string& path, const std::string& name, std::vector<TensorSum> tensors) {
  const core::InputFile file(path);
  FileSum sum{name, file.size(), {}, std::move(tensors)};
  Xxh3 whole;
  std::uint64_t at = 0;
  const auto pass = [&](std::uint64_t end, Xxh3* part) {
    for_each_chunk(file, at, end - at, [&](const void* data, std::uint64_t n) {
      whole.update(data, n);
      if (part) part->update(data, n);
    });
    at = end;
  };
  for (TensorSum& t : sum.tensors) {
    if (t.begin < at || t.begin > file.size() || t.bytes > file.size() - t.begin) break;  // a manifest of another file
    pass(t.begin, nullptr);
    Xxh3 part;
    pass(t.begin + t.bytes, &part);
    t.xxh3 = part.digest64();
  }
  pass(file.size(), nullptr);
  sum.xxh3 = whole.digest128();
  return sum;
}

std::string hex(std::uint64_t x) { return fmt::format("{:016x}", x); }

json::object to_json(const FileSum& f) {
  json::object o{{"name", f.name}, {"bytes", f.bytes}, {"xxh3_128", f.xxh3}};
  if (!f.tensors.empty()) {
    json::array& a = o["tensors"].emplace_array();
    for (const TensorSum& t : f.tensors) a.push_back({{"name", t.name}, {"begin", t.begin}, {"bytes", t.bytes}, {"xxh3_64", hex(t.xxh3)}});
  }
  return o;
}

FileSum file_from_json(const json::value& v) {
  FileSum f{std::string(v.at("name").as_string()), v.at("bytes").to_number<std::uint64_t>(), std::string(v.at("xxh3_128").as_string()), {}};
  if (const auto* tensors = v.as_object().if_contains("tensors"))
    for (const json::value& t : tensors->as_array())
      f.tensors.push_back({std::string(t.at("name").as_string()), t.at("begin").to_number<std::uint64_t>(),
                           t.at("bytes").to_number<std::uint64_t>(), std::stoull(std::string(t.at("xxh3_64").as_string()), nullptr, 16)});
  return f;
}

}  // namespace

void Manifest::add_file(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  std::vector<TensorSum> tensors;
  if (name.ends_with(".safetensors")) {
    const SafetensorsFile file(path);
    for (const TensorInfo& t : file.tensors()) tensors.push_back({t.name, t.begin, t.bytes(), 0});
  }
  add(hash_file(path, name, std::move(tensors)));
}

void Manifest::write(const std::string& path) const {
  json::object o{{"format_version", kFormatVersion}, {"info", info}};
  json::array& files = o["files"].emplace_array();
  for (const FileSum& f : files_) files.push_back(to_json(f));
  o["checksum"] = kNoChecksum;
  std::string text = core::pretty_json(o);
  text.replace(text.rfind(kNoChecksum), kNoChecksum.size(), xxh3_128(text));
  core::write_file_atomic(path, text);
}

Manifest Manifest::read(const std::string& path) {
  const auto refuse = [&](std::string_view what) -> Error {
    return {Exit::bad_input, what, path, "use an older checkpoint, this one is damaged"};
  };
  std::string text = core::read_file(path, 1 << 30);
  // The manifest's own checksum is that of its text with zeros in the checksum's place.
  constexpr std::string_view kKey = "\"checksum\": \"";
  const auto at = text.rfind(kKey);
  if (at == std::string::npos || text.size() - at < kKey.size() + kNoChecksum.size()) throw refuse("the manifest has no checksum");
  const std::string expected = text.substr(at + kKey.size(), kNoChecksum.size());
  text.replace(at + kKey.size(), kNoChecksum.size(), kNoChecksum);
  if (xxh3_128(text) != expected) throw refuse("the manifest's checksum does not agree with its content");

  // What follows was written by finback itself, as the checksum shows; a foreign one that carries a right checksum is refused in
  // one piece.
  const json::value o = core::parse_json(text, path, {.max_bytes = 1 << 30, .max_depth = 32, .exit = Exit::bad_input});
  Manifest m;
  try {
    if (const auto version = o.at("format_version").as_int64(); version != kFormatVersion)
      throw Error(Exit::bad_input, fmt::format("manifest of format_version {}, this program reads {}", version, kFormatVersion), path,
                  "use the version of finback that wrote it");
    m.info = o.at("info").as_object();
    for (const json::value& f : o.at("files").as_array()) m.files_.push_back(file_from_json(f));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw refuse(fmt::format("the manifest lacks a field: {}", e.what()));
  }
  return m;
}

std::vector<std::string> Manifest::verify(const std::string& folder, std::string_view except) const {
  std::vector<std::string> faults;
  for (const FileSum& expected : files_) {
    if (!except.empty() && expected.name.starts_with(except)) continue;
    const std::string path = folder + "/" + expected.name;
    try {
      const FileSum found = hash_file(path, expected.name, expected.tensors);
      if (found.bytes != expected.bytes) {
        faults.push_back(fmt::format("{}: {} bytes, {} were written", path, found.bytes, expected.bytes));
        continue;
      }
      if (found.xxh3 == expected.xxh3) continue;
      const std::size_t before = faults.size();
      for (std::size_t i = 0; i < expected.tensors.size(); ++i)
        if (found.tensors[i].xxh3 != expected.tensors[i].xxh3)
          faults.push_back(fmt::format("{}: tensor '{}' differs from what was written", path, expected.tensors[i].name));
      if (faults.size() == before)
        faults.push_back(
            fmt::format("{}: {} differs from what was written", path, expected.tensors.empty() ? "the content" : "the header"));
    } catch (const Error& e) {
      faults.emplace_back(e.what());
    }
  }
  return faults;
}

}  // namespace finback::formats
