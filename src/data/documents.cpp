#include "data/documents.h"

#include "core/json.h"

#include <algorithm>

namespace finback::data {
namespace {

using core::Error;
using core::Exit;

bool is_ascii_alnum(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

bool is_blank(std::string_view s) { return s.find_first_not_of(" \t\r\n") == std::string_view::npos; }

struct Separator {
  std::size_t begin = std::string_view::npos, end = std::string_view::npos;
};

// The first separator that begins at or after `from`: what lies between two documents.
Separator find_separator(std::string_view text, const DocumentFormat& format, std::size_t from) {
  using Split = DocumentFormat::Split;
  switch (format.split) {
    case Split::none:
      break;
    case Split::line:
      if (const auto n = text.find('\n', from); n != std::string_view::npos) return {n, n + 1};
      break;
    case Split::marker:
      if (const auto n = text.find(format.marker, from); n != std::string_view::npos) return {n, n + format.marker.size()};
      break;
    case Split::blank_line:  // the line break before the blank lines belongs to the document
      for (auto n = text.find('\n', from); n != std::string_view::npos; n = text.find('\n', n + 1)) {
        std::size_t end = n + 1;
        for (std::size_t i = end; i < text.size() && std::string_view(" \t\r\n").find(text[i]) != std::string_view::npos; ++i)
          if (text[i] == '\n') end = i + 1;
        if (end > n + 1) return {n + 1, end};
      }
      break;
  }
  return {};
}

// The named field of a JSON line.
std::string text_of_line(std::string_view line, const DocumentFormat& format, const std::string& where) {
  const boost::json::value value = core::parse_json(line, where, {.max_bytes = ChunkReader::kMaxChunkBytes});
  const boost::json::object* object = value.if_object();
  if (!object) throw Error(Exit::bad_input, "a line that is not a JSON object", where, "write one object a line");
  const boost::json::value* field = object->if_contains(format.field);
  if (!field) {
    std::string names;
    for (const auto& item : *object) names += fmt::format("{}{}", names.empty() ? "" : ", ", std::string_view(item.key()));
    throw Error(Exit::bad_input, fmt::format("no field '{}'", format.field), where,
                fmt::format("name one with --field (the line has: {})", names.substr(0, 200)));
  }
  if (!field->is_string())
    throw Error(Exit::bad_input, fmt::format("field '{}' is not a string", format.field), where, "name a text field with --field");
  return std::string(field->get_string());
}

std::int64_t for_each_line(const Chunk& chunk, const DocumentFormat& format, const std::string& path, const TakeText& take) {
  std::int64_t bad = 0, number = chunk.line;
  for (std::size_t begin = 0; begin < chunk.text.size(); ++number) {
    const std::size_t end = std::min(chunk.text.find('\n', begin), chunk.text.size());
    const std::string_view line = std::string_view(chunk.text).substr(begin, end - begin);
    begin = end + 1;
    if (is_blank(line)) continue;
    try {
      take(text_of_line(line, format, fmt::format("{} line {}", path, number)), true);
    } catch (const Error& e) {
      if (e.code() != Exit::bad_input || !format.skip_bad_lines) throw;
      ++bad;
    }
  }
  return bad;
}

}  // namespace

bool ends_pieces_at_line_breaks(const text::PreTokenizer& pre_tokenizer) {
  for (const std::string before :
       {"", "a", "7", ".", " ", "\n", "\r", "\t", "\xE4\xB8\x80" /* 一 */, "\xCC\x81" /* a combining mark */, "\xFF"})
    for (const char after : {'a', 'Z', '0'}) {
      const std::string text = before + "\n" + after;
      bool ends = false;
      pre_tokenizer.split(text, [&](const char*, const char* end) { ends |= end == text.data() + before.size() + 1; });
      if (!ends) return false;
    }
  return true;
}

ChunkReader::ChunkReader(const std::string& path, const DocumentFormat& format, std::uint64_t offset, std::int64_t line)
    : stream_(path), format_(format), offset_(offset), line_(line) {
  stream_.skip(offset);
}

// The last place to end a chunk, at least `least` bytes into the buffer; 0: none.
std::size_t ChunkReader::find_cut(std::size_t least) const {
  if (format_.format == Format::jsonl || format_.split == DocumentFormat::Split::line) {
    const auto n = buffer_.rfind('\n');
    return n == std::string::npos || n < least ? 0 : n + 1;
  }
  if (!format_.cut_documents) return 0;
  const std::string_view text = buffer_;
  const bool marker = format_.split == DocumentFormat::Split::marker;
  const std::size_t reserve = marker ? format_.marker.size() : 1;  // a marker that begins before the cut must be seen whole
  for (std::size_t cut = text.size() > reserve ? text.size() - reserve : 0; cut > least; --cut) {
    if (text[cut - 1] != '\n' || !is_ascii_alnum(text[cut])) continue;
    if (marker) {
      const std::size_t first = cut >= format_.marker.size() ? cut - format_.marker.size() + 1 : 0;
      if (text.substr(0, cut + format_.marker.size() - 1).find(format_.marker, first) < cut) continue;
    }
    return cut;
  }
  return 0;
}

bool ChunkReader::next(Chunk& chunk) {
  std::size_t cut = 0, searched = 0;
  for (std::size_t want = format_.chunk_bytes;; want *= 2) {
    while (!at_end_ && buffer_.size() < want) {
      const std::size_t have = buffer_.size();
      buffer_.resize(want);
      const std::size_t n = stream_.read({buffer_.data() + have, want - have});
      buffer_.resize(have + n);
      at_end_ = n == 0;
      if (offset_ == 0 && have == 0 && format_.format == Format::text)
        if (const auto zero = buffer_.find('\0'); zero != std::string::npos)
          throw Error(Exit::bad_input, fmt::format("a zero byte at byte {}, the file is not text", zero), stream_.path(),
                      "give UTF-8 text");
    }
    if (at_end_ && buffer_.size() <= want) {
      cut = buffer_.size();
      break;
    }
    cut = find_cut(searched);
    if (cut > 0) break;
    searched = buffer_.size() - std::min(buffer_.size(), format_.marker.size() + 1);
    if (want >= kMaxChunkBytes)
      throw Error(Exit::bad_input, fmt::format("no place to divide the text in the {} bytes from line {}", buffer_.size(), line_),
                  stream_.path(), "break it into lines");
  }
  if (cut == 0) return false;
  chunk.text.assign(buffer_, 0, cut);
  chunk.line = line_;
  chunk.ends_file = at_end_ && cut == buffer_.size();
  buffer_.erase(0, cut);
  line_ += std::count(chunk.text.begin(), chunk.text.end(), '\n');
  if (offset_ == 0 && chunk.text.starts_with("\xEF\xBB\xBF")) chunk.text.erase(0, 3);  // a byte-order mark is not text
  offset_ += cut;
  return true;
}

std::int64_t for_each_document(const Chunk& chunk, const DocumentFormat& format, const std::string& path, const TakeText& take) {
  if (format.format == Format::jsonl) return for_each_line(chunk, format, path, take);
  const std::string_view text = chunk.text;
  const auto take_part = [&](std::string_view part, bool ends) {
    // Spaces between two separators are no document. (No chunk begins with spaces in the middle of a document.)
    take(format.split != DocumentFormat::Split::none && ends && is_blank(part) ? std::string_view() : part, ends);
  };
  std::size_t begin = 0;
  for (Separator s = find_separator(text, format, 0); s.begin != std::string_view::npos; s = find_separator(text, format, begin)) {
    take_part(text.substr(begin, s.begin - begin), true);
    begin = s.end;
  }
  if (begin < text.size()) take_part(text.substr(begin), chunk.ends_file);
  return 0;
}

}  // namespace finback::data
