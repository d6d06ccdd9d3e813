#include "infer/text_stream.h"

#include <algorithm>

namespace finback::infer {
namespace {

// Bytes at the end that begin a code point whose last byte is not there yet.
std::size_t unfinished(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (byte < 0x80) return 0;
    if (byte >= 0xc0) return (byte >= 0xf0 ? 4u : byte >= 0xe0 ? 3u : 2u) > back ? back : 0;
  }
  return 0;
}

// Bytes at the end that a stop string begins with.
std::size_t begun(std::string_view text, std::string_view stop) {
  for (std::size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n)
    if (text.ends_with(stop.substr(0, n))) return n;
  return 0;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) { std::erase(stops_, ""); }

std::string_view TextStream::put(std::string_view bytes) {
  if (stopped_) return {};
  pending_ += bytes;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, pending_.find(stop));
  if (first == std::string::npos) return show(pending_.size() - held_back());
  stopped_ = true;
  pending_.resize(first);
  return show(first);
}

std::string_view TextStream::end() { return show(pending_.size()); }

std::size_t TextStream::held_back() const {
  std::size_t most = unfinished(pending_);
  for (const std::string& stop : stops_) most = std::max(most, begun(pending_, stop));
  return most;
}

std::string_view TextStream::show(std::size_t size) {
  shown_ = pending_.substr(0, size);
  pending_.erase(0, size);
  return shown_;
}

}  // namespace finback::infer
