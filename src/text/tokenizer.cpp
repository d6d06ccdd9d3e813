#include "text/tokenizer.h"

#include "core/error.h"
#include "core/file.h"
#include "text/tiktoken.h"
#include "text/tokenizer_json.h"

#include <algorithm>
#include <filesystem>

namespace finback::text {

using core::Error;
using core::Exit;

namespace {

void check_size(std::string_view text) {
  if (text.size() >= BpeModel::kNone)
    throw Error(Exit::bad_input, fmt::format("a text of {} bytes, at most 4 GiB are taken at once", text.size()), "tokenizer encode",
                "split it");
}

}  // namespace

struct Tokenizer::Encoders {
  std::mutex mutex;
  std::vector<std::unique_ptr<PieceEncoder>> idle;
};

// An encoder for the length of a call.
class Tokenizer::Lease {
 public:
  explicit Lease(const Tokenizer& tokenizer) : pool_(*tokenizer.encoders_) {
    {
      const std::lock_guard lock(pool_.mutex);
      if (!pool_.idle.empty()) {
        encoder_ = std::move(pool_.idle.back());
        pool_.idle.pop_back();
      }
    }
    if (!encoder_) encoder_ = std::make_unique<PieceEncoder>(*tokenizer.model_);
  }
  ~Lease() {
    const std::lock_guard lock(pool_.mutex);
    pool_.idle.push_back(std::move(encoder_));
  }
  Lease(const Lease&) = delete;
  PieceEncoder& operator*() { return *encoder_; }

 private:
  Encoders& pool_;
  std::unique_ptr<PieceEncoder> encoder_;
};

Tokenizer::Tokenizer(Vocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)), special_by_id_(vocabulary_.tokens.size()), encoders_(std::make_unique<Encoders>()) {
  for (const std::int32_t id : vocabulary_.special) {
    const std::string_view text = vocabulary_.tokens[static_cast<std::size_t>(id)];
    FB_CHECK(!text.empty(), "special token {} is empty", id);
    special_by_id_[static_cast<std::size_t>(id)] = true;
    specials_.emplace_back(text, id);
    special_begins_[static_cast<unsigned char>(text[0])] = true;
  }
  std::sort(specials_.begin(), specials_.end());
  std::array<std::int32_t, 256> byte_ids;
  byte_ids.fill(-1);
  for (std::int32_t id = 0; id < vocab_size(); ++id) {
    const std::string& bytes = vocabulary_.tokens[static_cast<std::size_t>(id)];
    if (is_special(id)) continue;
    if (bytes.size() == 1) byte_ids[static_cast<unsigned char>(bytes[0])] = id;
    if (vocabulary_.whole_pieces) whole_.emplace(bytes, id);
  }
  for (int b = 0; b < 256; ++b)
    if (byte_ids[static_cast<std::size_t>(b)] < 0) {
      FB_CHECK(never_in_utf8(static_cast<unsigned char>(b)), "no token for the byte {}", b);
      lacking_ += static_cast<char>(b);
    }
  model_ = std::make_unique<BpeModel>(byte_ids, vocabulary_.merges);

  const auto named = [&](std::string_view text) { return id_of(text).value_or(-1); };
  bos_ = named(vocabulary_.bos);
  eos_ = named(vocabulary_.eos);
  pad_ = named(vocabulary_.pad);
  const auto begin = id_of("<｜fim▁begin｜>"), hole = id_of("<｜fim▁hole｜>"), end = id_of("<｜fim▁end｜>");
  if (begin && hole && end) fim_ = Fim{*begin, *hole, *end};
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(path)) return Tokenizer(read_tokenizer_json(path));
  const std::string json = (fs::path(path) / "tokenizer.json").string(), tiktoken = (fs::path(path) / "tiktoken.model").string();
  if (core::exists(json)) return Tokenizer(read_tokenizer_json(json));
  if (core::exists(tiktoken)) return Tokenizer(read_tiktoken(tiktoken));
  throw Error(Exit::bad_input, "no tokenizer in this folder", path, "give a tokenizer.json, or a folder with one or with a tiktoken.model");
}

void Tokenizer::save(const std::string& folder) const {
  core::make_directories(folder);
  if (vocabulary_.tiktoken) write_tiktoken(vocabulary_, folder);
  else write_tokenizer_json(vocabulary_, folder);
}

std::optional<std::int32_t> Tokenizer::id_of(std::string_view special) const {
  const auto it =
      std::lower_bound(specials_.begin(), specials_.end(), special, [](const auto& s, std::string_view t) { return s.first < t; });
  if (it == specials_.end() || it->first != special) return std::nullopt;
  return it->second;
}

std::int32_t Tokenizer::special_at(std::string_view text) const {
  // The specials that share ever more of the text, a range of the sorted list that narrows byte by byte.
  auto first = specials_.begin(), last = specials_.end();
  std::int32_t longest = -1;
  for (std::size_t depth = 0; depth < text.size() && first != last; ++depth) {
    const auto at = [depth](const auto& s) { return s.first.size() > depth ? static_cast<unsigned char>(s.first[depth]) : -1; };
    const int byte = static_cast<unsigned char>(text[depth]);
    first = std::partition_point(first, last, [&](const auto& s) { return at(s) < byte; });
    last = std::partition_point(first, last, [&](const auto& s) { return at(s) == byte; });
    if (first != last && first->first.size() == depth + 1) longest = first->second;
  }
  return longest;
}

void Tokenizer::encode_plain(std::string_view text, PieceEncoder& encoder, std::vector<std::int32_t>& out) const {
  vocabulary_.pre_tokenizer.split(text, [&](const char* p, const char* q) {
    const std::string_view piece(p, static_cast<std::size_t>(q - p));
    if (vocabulary_.whole_pieces)
      if (const auto it = whole_.find(piece); it != whole_.end()) return out.push_back(it->second);
    encoder.encode(piece, out);
  });
}

void Tokenizer::encode_with(PieceEncoder& encoder, std::string_view text, bool allow_special, std::vector<std::int32_t>& out) const {
  if (text.find_first_of(lacking_) != text.npos) {
    std::string replaced;
    for (const char byte : text)
      if (lacking_.find(byte) == lacking_.npos) replaced += byte;
      else append_utf8(replaced, 0xFFFD);
    return encode_with(encoder, replaced, allow_special, out);
  }
  if (!allow_special) return encode_plain(text, encoder, out);
  std::size_t plain = 0;  // the text from here on holds no special token yet
  for (std::size_t i = 0; i < text.size();) {
    const std::int32_t id = special_begins_[static_cast<unsigned char>(text[i])] ? special_at(text.substr(i)) : -1;
    if (id < 0) {
      ++i;
      continue;
    }
    encode_plain(text.substr(plain, i - plain), encoder, out);
    out.push_back(id);
    i += vocabulary_.tokens[static_cast<std::size_t>(id)].size();
    plain = i;
  }
  encode_plain(text.substr(plain), encoder, out);
}

void Tokenizer::encode_into(std::string_view text, bool allow_special, std::vector<std::int32_t>& out) const {
  check_size(text);
  Lease encoder(*this);
  encode_with(*encoder, text, allow_special, out);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool allow_special) const {
  std::vector<std::int32_t> out;
  out.reserve(text.size() / 4 + 8);
  encode_into(text, allow_special, out);
  return out;
}

std::vector<std::vector<std::int32_t>> Tokenizer::encode_all(core::Team& team, std::span<const std::string_view> texts,
                                                             bool allow_special) const {
  for (const std::string_view text : texts) check_size(text);  // here, since a task must not throw
  std::vector<std::vector<std::int32_t>> all(texts.size());
  std::vector<std::unique_ptr<Lease>> encoders;
  for (int thread = 0; thread < team.threads(); ++thread) encoders.push_back(std::make_unique<Lease>(*this));
  core::parallel_for(team, static_cast<std::int64_t>(texts.size()), [&](std::int64_t i, int thread) {
    const std::string_view text = texts[static_cast<std::size_t>(i)];
    std::vector<std::int32_t>& ids = all[static_cast<std::size_t>(i)];
    ids.reserve(text.size() / 4 + 8);
    encode_with(**encoders[static_cast<std::size_t>(thread)], text, allow_special, ids);
  });
  return all;
}

std::string_view Tokenizer::token_bytes(std::int32_t id) const {
  if (id < 0 || id >= vocab_size())
    throw Error(Exit::bad_input, fmt::format("token id {} is not in 0 … {}", id, vocab_size() - 1), "tokenizer decode",
                "use the tokenizer that made the ids");
  return vocabulary_.tokens[static_cast<std::size_t>(id)];
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string out;
  for (const std::int32_t id : ids) out += token_bytes(id);
  return out;
}

}  // namespace finback::text
