#include "tests/text/small.h"

#include "core/error.h"
#include "text/tiktoken.h"

#include <map>
#include <unordered_map>

namespace finback::text {

Vocabulary small_vocabulary() {
  Vocabulary v;
  const auto special = [&](const char* text) {
    v.special.push_back(static_cast<std::int32_t>(v.tokens.size()));
    v.tokens.emplace_back(text);
  };
  for (const char* text : {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"}) special(text);
  std::map<std::string, std::int32_t> ids;
  const auto add = [&](const std::string& bytes) {
    ids[bytes] = static_cast<std::int32_t>(v.tokens.size());
    v.tokens.push_back(bytes);
  };
  for (const unsigned char b : byte_level_order()) add(std::string(1, static_cast<char>(b)));
  const std::vector<std::pair<std::string, std::string>> merges = {
      {"t", "h"},           {" ", "th"},      {" th", "e"}, {"c", "a"},       {" ", "ca"}, {" ca", "t"}, {"a", "a"},
      {"aa", "aa"},         {" ", " "},       {"\n", "\n"}, {"  ", "  "},     {"7", "7"},  {"77", "7"},  {"\xE4", "\xB8"},
      {"\xE4\xB8", "\xAD"}, {"\xCC", "\x81"}, {"中", "中"}, {"中中", "中中"}, {"th", "e"}, {"!", "!"},   {"\u0301", "\u0301"}};
  for (const auto& [left, right] : merges) {
    add(left + right);
    v.merges.push_back({ids.at(left), ids.at(right), ids.at(left + right), static_cast<std::uint32_t>(v.merges.size())});
  }
  for (const char* text : {"<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜User｜>", "<｜Assistant｜>"}) special(text);
  v.bos = v.tokens[0];
  v.eos = v.tokens[1];
  v.pad = v.tokens[2];
  return v;
}

Tokenizer v3_from_vocabulary(std::string_view file) {
  Vocabulary v;
  std::unordered_map<std::string, std::int32_t> ids;
  for (std::size_t at = 0; at < file.size();) {
    const std::size_t newline = file.find('\n', at), space = file.find(' ', at);
    std::string text, bytes;
    FB_CHECK(from_base64(file.substr(at, space - at), text), "base64");
    const auto id = static_cast<std::int32_t>(v.tokens.size());
    FB_CHECK(std::stoi(std::string(file.substr(space + 1, newline - space - 1))) == id, "ids in order");
    if (id < 3) {
      v.special.push_back(id);
      v.tokens.push_back(text);
    } else {
      FB_CHECK(from_byte_level(text, bytes), "{}", text);
      v.tokens.push_back(bytes);
      ids.emplace(bytes, id);
      // Merge by lower ids until two parts are left.
      std::vector<std::string> parts;
      for (const char c : bytes) parts.emplace_back(1, c);
      while (parts.size() > 2) {
        std::int32_t best = id;
        std::size_t best_at = 0;
        for (std::size_t i = 0; i + 1 < parts.size(); ++i)
          if (const auto it = ids.find(parts[i] + parts[i + 1]); it != ids.end() && it->second < best) {
            best = it->second;
            best_at = i;
          }
        FB_CHECK(best < id, "token {} does not split into lower ones", id);
        parts[best_at] += parts[best_at + 1];
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
      }
      if (parts.size() == 2) v.merges.push_back({ids.at(parts[0]), ids.at(parts[1]), id, static_cast<std::uint32_t>(v.merges.size())});
    }
    at = newline + 1;
  }
  v.bos = v.tokens[0];
  v.eos = v.tokens[1];
  return Tokenizer(std::move(v));
}

}  // namespace finback::text
