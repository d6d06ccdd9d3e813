// Text files: the first byte chooses the format, the second the size of the chunks, the rest is the file. However it is divided,
// the documents are the same, and so is whether it is refused.
#include "data/documents.h"
#include "tests/fuzz/fuzz.h"

#include <optional>
#include <vector>

namespace {

using finback::data::Chunk;
using finback::data::ChunkReader;
using finback::data::DocumentFormat;

std::optional<std::vector<std::string>> documents(const std::string& path, const DocumentFormat& format) {
  std::vector<std::string> out(1);
  try {
    ChunkReader reader(path, format);
    for (Chunk chunk; reader.next(chunk);)
      finback::data::for_each_document(chunk, format, path, [&](std::string_view text, bool ends) {
        out.back() += text;
        if (ends) out.emplace_back();
      });
  } catch (const finback::core::Error& e) {
    FB_CHECK(e.code() == finback::core::Exit::bad_input, "{}", e.what());
    return std::nullopt;
  }
  return out;
}

}  // namespace

FUZZ(input) {
  if (input.size() < 2) return;
  const auto kind = static_cast<unsigned char>(input[0]);
  const bool jsonl = kind % 8 >= 5, compressed = kind >= 128;
  DocumentFormat format{.format = jsonl ? finback::data::Format::jsonl : finback::data::Format::text,
                        .split = static_cast<DocumentFormat::Split>(kind % 4),
                        .marker = "\n--",
                        .skip_bad_lines = kind % 8 == 7};
  const std::string path = finback::fuzz::put(compressed ? "a.txt.zst" : "a.txt", input.substr(2));
  const auto whole = documents(path, format);
  format.chunk_bytes = 1 + static_cast<unsigned char>(input[1]) % 64;
  // In small chunks a zero byte may lie behind the first, where it is allowed.
  const auto divided = documents(path, format);
  FB_CHECK(whole == divided || (!whole && !jsonl), "{} {}", whole.has_value(), divided.has_value());
}
