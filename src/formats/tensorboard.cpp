#include "formats/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>

namespace finback::formats {
namespace {

// CRC-32C (Castagnoli), reflected, one byte at a time: events are small.
constexpr std::array<std::uint32_t, 256> kTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c & 1) ? (c >> 1) ^ 0x82f63b78u : c >> 1;
    table[i] = c;
  }
  return table;
}();

// A CRC of data that holds CRCs is a weak check; so it is stored rotated and shifted.
std::uint32_t masked(std::uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

template <class T>
void put_raw(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

enum class Wire : std::uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

void put_key(std::string& out, std::uint32_t field, Wire wire) { put_varint(out, field << 3 | static_cast<std::uint32_t>(wire)); }

void put_bytes(std::string& out, std::uint32_t field, std::string_view bytes) {
  put_key(out, field, Wire::bytes);
  put_varint(out, bytes.size());
  out += bytes;
}

double wall_time() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string event_at(std::int64_t step) {
  std::string event;
  put_key(event, 1, Wire::fixed64);
  put_raw(event, wall_time());
  put_key(event, 2, Wire::varint);
  put_varint(event, static_cast<std::uint64_t>(step));
  return event;
}

std::string new_path(const std::string& folder) {
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  for (int n = 0;; ++n) {
    std::string path =
        fmt::format("{}/events.out.tfevents.{}.{}.{}.{}", folder, static_cast<std::int64_t>(wall_time()), host, ::getpid(), n);
    if (!core::exists(path)) return path;
  }
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t c = ~0u;
  for (const char b : bytes) c = kTable[(c ^ static_cast<unsigned char>(b)) & 0xff] ^ (c >> 8);
  return ~c;
}

EventWriter::EventWriter(const std::string& folder, std::int64_t first_step) {
  core::make_directories(folder);
  path_ = new_path(folder);
  file_ = std::make_unique<core::AppendFile>(path_);
  std::string version = event_at(0);
  put_bytes(version, 3, "brain.Event:2");
  record(version);
  if (first_step == 0) return;
  std::string start = event_at(first_step);
  put_bytes(start, 7, std::string_view("\x08\x01", 2));  // SessionLog { status: START }
  record(start);
}

void EventWriter::add(std::int64_t step, std::span<const Scalar> scalars) {
  std::string summary;
  for (const Scalar& s : scalars) {
    std::string value;
    put_bytes(value, 1, s.tag);
    put_key(value, 2, Wire::fixed32);
    put_raw(value, static_cast<float>(s.value));
    put_bytes(summary, 1, value);
  }
  std::string event = event_at(step);
  put_bytes(event, 5, summary);
  record(event);
}

void EventWriter::record(std::string_view event) {
  std::string out;
  put_raw(out, std::uint64_t{event.size()});
  put_raw(out, masked(crc32c(out)));
  out += event;
  put_raw(out, masked(crc32c(event)));
  file_->append(out);
}

}  // namespace finback::formats
