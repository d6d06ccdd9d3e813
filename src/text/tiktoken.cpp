#include "text/tiktoken.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "text/tokenizer_json.h"

#include <boost/json/object.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <unordered_map>

namespace finback::text {
namespace {

namespace json = boost::json;
using core::Error;
using core::Exit;

constexpr std::uint64_t kMaxBytes = 16 << 20;
constexpr std::size_t kMaxTokenBytes = 4096;  // each token is split in every place below
constexpr std::size_t kReserved = 256 + 2;
constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string to_base64(std::string_view bytes) {
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t bits = 0;
    for (std::size_t j = 0; j < 3; ++j) bits = bits << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    for (std::size_t j = 0; j < 4; ++j) out += i + j <= bytes.size() ? kDigits[bits >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

// Every split of every token into two tokens is a merge, of that token's rank: what tiktoken asks for any adjacent pair.
std::vector<Merge> all_merges(const std::vector<std::string>& tokens) {
  std::unordered_map<std::string_view, std::int32_t> ids;
  for (std::size_t id = 0; id < tokens.size(); ++id) ids.emplace(tokens[id], static_cast<std::int32_t>(id));
  std::vector<Merge> merges;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const std::string_view token = tokens[id];
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
      if (left != ids.end() && right != ids.end())
        merges.push_back({left->second, right->second, static_cast<std::int32_t>(id), static_cast<std::uint32_t>(id)});
    }
  }
  return merges;
}

std::vector<std::string> read_ranks(const std::string& path) {
  const std::string file = core::read_file(path, kMaxBytes);
  std::vector<std::string> tokens;
  std::unordered_map<std::string, std::int32_t> known;
  std::string bytes;
  std::size_t line_number = 0;
  for (std::size_t at = 0; at < file.size();) {
    std::size_t newline = file.find('\n', at);
    if (newline == file.npos) newline = file.size();
    const std::string_view line = std::string_view(file).substr(at, newline - at);
    at = newline + 1;
    ++line_number;
    if (line.empty()) continue;
    const auto fail = [&](const std::string& what) -> Error {
      return Error(Exit::bad_input, what, fmt::format("{}: line {}", path, line_number), "fetch the file again");
    };
    const std::size_t space = line.find(' ');
    std::int64_t rank = -1;
    const char* const end = line.data() + line.size();
    const bool number = space != line.npos && std::from_chars(line.data() + space + 1, end, rank).ptr == end;
    if (!number || !from_base64(line.substr(0, space), bytes)) throw fail("not 'base64 rank'");
    if (rank != static_cast<std::int64_t>(tokens.size())) throw fail(fmt::format("rank {} where {} is next", rank, tokens.size()));
    if (bytes.size() > kMaxTokenBytes) throw fail(fmt::format("a token of {} bytes", bytes.size()));
    if (!known.emplace(bytes, static_cast<std::int32_t>(rank)).second) throw fail("a token that stands above already");
    tokens.push_back(bytes);
  }
  for (int b = 0; b < 256; ++b)
    if (!known.contains(std::string(1, static_cast<char>(b))))
      throw Error(Exit::bad_input, fmt::format("no token for the byte 0x{:02X}", b), path, "check that it is a byte-level vocabulary");
  return tokens;
}

// The texts of special tokens by id.
std::unordered_map<std::int64_t, std::string> read_special_names(const std::string& path) {
  std::unordered_map<std::int64_t, std::string> names;
  const json::value file = core::read_json_file(path);
  const auto* config = file.if_object();
  const auto* decoder = config != nullptr ? config->if_contains("added_tokens_decoder") : nullptr;
  if (decoder == nullptr) return names;
  if (!decoder->is_object()) throw Error(Exit::bad_input, "'added_tokens_decoder' is not an object", path, "correct the file");
  for (const auto& [key, value] : decoder->get_object()) {
    std::int64_t id = -1;
    const bool number = std::from_chars(key.data(), key.data() + key.size(), id).ptr == key.data() + key.size();
    const auto* token = value.if_object();
    const auto* content = token != nullptr ? token->if_contains("content") : nullptr;
    if (!number || content == nullptr || !content->is_string() || content->get_string().empty())
      throw Error(Exit::bad_input, fmt::format("added_tokens_decoder: '{}' is not an id with a content", std::string_view(key)), path,
                  "correct the file");
    names.emplace(id, std::string(content->get_string()));
  }
  return names;
}

}  // namespace

bool from_base64(std::string_view text, std::string& bytes) {
  bytes.clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  std::uint32_t bits = 0;
  int held = 0;
  for (const char c : text) {
    const std::size_t digit = kDigits.find(c);
    if (digit == kDigits.npos) return false;
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    if ((held += 6) < 8) continue;
    held -= 8;
    bytes += static_cast<char>(bits >> held & 0xFF);
  }
  return !bytes.empty();
}

Vocabulary read_tiktoken(const std::string& path) {
  Vocabulary v;
  v.tiktoken = v.whole_pieces = true;
  v.pre_tokenizer = PreTokenizer::kimi();
  v.tokens = read_ranks(path);
  v.merges = all_merges(v.tokens);
  const std::string config = (std::filesystem::path(path).parent_path() / "tokenizer_config.json").string();
  const bool configured = core::exists(config);
  const auto names = configured ? read_special_names(config) : std::unordered_map<std::int64_t, std::string>{};
  const std::size_t base = v.tokens.size();
  std::unordered_map<std::string, std::size_t> known;
  for (const auto& [id, name] : names)
    if (id < static_cast<std::int64_t>(base) || id >= static_cast<std::int64_t>(base + kReserved))
      throw Error(Exit::bad_input, fmt::format("special token '{}' has id {}, not in {} … {}", name, id, base, base + kReserved - 1),
                  config, "take both files from the same model");
  for (std::size_t id = base; id < base + kReserved; ++id) {
    const auto name = names.find(static_cast<std::int64_t>(id));
    v.tokens.push_back(name != names.end() ? name->second : fmt::format("<|reserved_token_{}|>", id));
    v.special.push_back(static_cast<std::int32_t>(id));
    if (!known.emplace(v.tokens.back(), id).second)
      throw Error(Exit::bad_input, fmt::format("special token '{}' twice", v.tokens.back()), config, "correct the file");
  }
  use_known_names(v);
  if (configured) read_tokenizer_config(config, v);
  return v;
}

void write_tiktoken(const Vocabulary& vocabulary, const std::string& folder) {
  FB_CHECK(vocabulary.tiktoken, "not a tiktoken vocabulary");
  std::string file;
  for (std::size_t id = 0; id + kReserved < vocabulary.tokens.size(); ++id)
    file += fmt::format("{} {}\n", to_base64(vocabulary.tokens[id]), id);
  core::write_file_atomic((std::filesystem::path(folder) / "tiktoken.model").string(), file);
  write_tokenizer_config(vocabulary, folder);
}

}  // namespace finback::text
