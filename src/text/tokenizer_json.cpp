#include "text/tokenizer_json.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <filesystem>
#include <unordered_set>

namespace finback::text {
namespace {

namespace json = boost::json;
using core::Error;
using core::Exit;

constexpr core::JsonLimits kLimits{.max_bytes = 64 << 20, .max_depth = 32};

std::string_view view(const json::string& s) { return {s.data(), s.size()}; }

class Reader {
 public:
  Reader(const json::object& file, std::string_view where) : file_(file), where_(where) {}

  Vocabulary read() {
    refuse_what_changes_the_text();
    const json::object& model = object(file_, "model");
    check_model(model);
    read_vocabulary(model);
    read_added_tokens();
    place_tokens();
    read_merges(model);
    if (const auto* ignore = model.if_contains("ignore_merges")) vocabulary_.whole_pieces = ignore->is_bool() && ignore->get_bool();
    if (!is_null(file_, "pre_tokenizer"))
      vocabulary_.pre_tokenizer = PreTokenizer::from_json(file_.at("pre_tokenizer"), fmt::format("{}: pre_tokenizer", where_));
    else fail("no pre_tokenizer", "pre_tokenizer", kOtherFamily);
    return std::move(vocabulary_);
  }

 private:
  static constexpr std::string_view kCorrect = "correct the file or fetch it again";
  static constexpr std::string_view kOtherFamily = "use a tokenizer of the DeepSeek or Kimi family, or train one";

  [[noreturn]] void fail(const std::string& what, std::string_view field, std::string_view remedy = kCorrect) const {
    throw Error(Exit::bad_input, what, fmt::format("{}: {}", where_, field), remedy);
  }
  static bool is_null(const json::object& o, std::string_view name) {
    const auto* v = o.if_contains(name);
    return v == nullptr || v->is_null();
  }
  const json::object& object(const json::object& o, std::string_view name) const {
    const auto* v = o.if_contains(name);
    if (v == nullptr || !v->is_object()) fail(fmt::format("'{}' is missing or not an object", name), name);
    return v->get_object();
  }
  const json::array& array(const json::object& o, std::string_view name) const {
    const auto* v = o.if_contains(name);
    if (v == nullptr || !v->is_array()) fail(fmt::format("'{}' is missing or not a list", name), name);
    return v->get_array();
  }
  // A name for an error message; never the whole of a huge string.
  static std::string shown(std::string_view text) { return text.size() <= 60 ? std::string(text) : std::string(text.substr(0, 60)) + "…"; }
  static std::string type_of(const json::value& v) {
    if (const auto* o = v.if_object())
      if (const auto* t = o->if_contains("type"); t != nullptr && t->is_string()) return shown(view(t->get_string()));
    return "?";
  }

  void refuse_what_changes_the_text() const {
    if (!is_null(file_, "normalizer")) {
      const json::value& n = file_.at("normalizer");
      const auto* o = n.if_object();
      const auto* list = o != nullptr ? o->if_contains("normalizers") : nullptr;
      const bool empty = type_of(n) == "Sequence" && list != nullptr && list->is_array() && list->get_array().empty();
      if (!empty) fail(fmt::format("normalizer '{}' is not supported", type_of(n)), "normalizer", kOtherFamily);
    }
    if (!is_null(file_, "decoder") && type_of(file_.at("decoder")) != "ByteLevel")
      fail(fmt::format("decoder '{}' is not supported", type_of(file_.at("decoder"))), "decoder", kOtherFamily);
  }

  void check_model(const json::object& model) const {
    if (const auto* type = model.if_contains("type"); type != nullptr && type_of(file_.at("model")) != "BPE")
      fail(fmt::format("model '{}' is not supported", type_of(file_.at("model"))), "model.type", kOtherFamily);
    for (const std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!is_null(model, affix) && !(model.at(affix).is_string() && model.at(affix).get_string().empty()))
        fail(fmt::format("'{}' is not supported", affix), fmt::format("model.{}", affix), kOtherFamily);
    if (!is_null(model, "dropout") && !(model.at("dropout").is_double() && model.at("dropout").get_double() == 0))
      fail("dropout is not supported", "model.dropout", "set it to null");
    if (const auto* v = model.if_contains("byte_fallback"); v != nullptr && v->is_bool() && v->get_bool())
      fail("byte_fallback is not supported", "model.byte_fallback", kOtherFamily);
  }

  // Text → id of the whole vocabulary. Ids must be 0 … n-1, once each; that also bounds memory by the file's size.
  void read_vocabulary(const json::object& model) {
    const json::object& vocab = object(model, "vocab");
    ids_.reserve(vocab.size());
    for (const auto& [key, value] : vocab) {
      const std::string_view text{key.data(), key.size()};
      if (!value.is_int64() && !value.is_uint64()) fail(fmt::format("the id of '{}' is not an integer", shown(text)), "model.vocab");
      ids_.emplace(text, id_of(value, text, "model.vocab"));
    }
  }

  std::int32_t id_of(const json::value& value, std::string_view text, std::string_view field) const {
    const std::int64_t id = value.is_int64() ? value.get_int64() : -1;
    if (id < 0 || id > 1 << 26) fail(fmt::format("id {} of '{}' is out of range", json::serialize(value), shown(text)), field);
    return static_cast<std::int32_t>(id);
  }

  void read_added_tokens() {
    if (is_null(file_, "added_tokens")) return;
    for (const json::value& value : array(file_, "added_tokens")) {
      const auto* o = value.if_object();
      if (o == nullptr) fail("an added token is not an object", "added_tokens");
      const auto* content = o->if_contains("content");
      if (content == nullptr || !content->is_string() || content->get_string().empty())
        fail("an added token without content", "added_tokens");
      const std::string_view text = view(content->get_string());
      for (const std::string_view name : {"lstrip", "rstrip", "single_word"})
        if (const auto* v = o->if_contains(name); v != nullptr && v->is_bool() && v->get_bool())
          fail(fmt::format("added token '{}' with {} is not supported", shown(text), name), "added_tokens", "set it to false");
      const auto* id = o->if_contains("id");
      if (id == nullptr) fail(fmt::format("added token '{}' without id", shown(text)), "added_tokens");
      const std::int32_t number = id_of(*id, text, "added_tokens");
      if (!added_.insert(text).second) fail(fmt::format("added token '{}' twice", shown(text)), "added_tokens");
      const auto [known, is_new] = ids_.try_emplace(text, number);
      if (!is_new && known->second != number)
        fail(fmt::format("added token '{}' has id {} here and {} in model.vocab", shown(text), number, known->second), "added_tokens");
      vocabulary_.special.push_back(number);
    }
  }

  void place_tokens() {
    const std::size_t n = ids_.size();
    vocabulary_.tokens.resize(n);
    std::vector<bool> taken(n);
    std::string bytes;
    for (const auto& [text, id] : ids_) {
      const auto i = static_cast<std::size_t>(id);
      if (i >= n) fail(fmt::format("id {} of '{}', but there are {} tokens: some ids are missing", id, shown(text), n), "model.vocab");
      if (taken[i]) fail(fmt::format("id {} twice, the second time for '{}'", id, shown(text)), "model.vocab");
      taken[i] = true;
      if (added_.contains(text)) bytes = text;
      else if (!from_byte_level(text, bytes) || bytes.empty())
        fail(fmt::format("token '{}' is not byte-level text and no added token", shown(text)), "model.vocab", kOtherFamily);
      vocabulary_.tokens[i] = bytes;
    }
    for (const unsigned char b : byte_level_order()) {
      const std::string text = to_byte_level({reinterpret_cast<const char*>(&b), 1});
      if ((!ids_.contains(text) || added_.contains(text)) && !never_in_utf8(b))
        fail(fmt::format("no token for the byte 0x{:02X} ('{}')", b, text), "model.vocab", kOtherFamily);
    }
  }

  void read_merges(const json::object& model) {
    const json::array& merges = array(model, "merges");
    std::unordered_set<std::uint64_t> pairs;
    vocabulary_.merges.reserve(merges.size());
    std::string joined;
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      const std::string field = fmt::format("model.merges[{}]", rank);
      const auto [left, right] = pair_of(merges[rank], field);
      joined.assign(left).append(right);
      const auto piece = [&](std::string_view text) {
        const auto it = ids_.find(text);
        if (it == ids_.end()) fail(fmt::format("'{}' is not in the vocabulary", shown(text)), field);
        return it->second;
      };
      const Merge m{piece(left), piece(right), piece(joined), static_cast<std::uint32_t>(rank)};
      if (!pairs.insert(static_cast<std::uint64_t>(m.left) << 32 | static_cast<std::uint32_t>(m.right)).second)
        fail(fmt::format("the pair '{}' '{}' twice", shown(left), shown(right)), field);
      vocabulary_.merges.push_back(m);
    }
  }

  std::pair<std::string_view, std::string_view> pair_of(const json::value& merge, const std::string& field) const {
    if (const auto* list = merge.if_array(); list != nullptr && list->size() == 2 && (*list)[0].is_string() && (*list)[1].is_string())
      return {view((*list)[0].get_string()), view((*list)[1].get_string())};
    if (merge.is_string()) {  // "left right"; byte-level text has no space
      const std::string_view text = view(merge.get_string());
      const std::size_t space = text.find(' ');
      if (space != text.npos && text.find(' ', space + 1) == text.npos) return {text.substr(0, space), text.substr(space + 1)};
    }
    fail("not a pair of pieces", field);
  }

  const json::object& file_;
  std::string_view where_;
  Vocabulary vocabulary_;
  std::unordered_map<std::string_view, std::int32_t> ids_;
  std::unordered_set<std::string_view> added_;
};

json::object added_token(const Vocabulary& v, std::int32_t id) {
  return {{"id", id},
          {"content", v.tokens[static_cast<std::size_t>(id)]},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", true}};
}

}  // namespace

Vocabulary parse_tokenizer_json(std::string_view text, std::string_view where) {
  const json::value file = core::parse_json(text, where, kLimits);
  if (!file.is_object()) throw Error(Exit::bad_input, "not a JSON object", where, "check that it is a tokenizer.json");
  Vocabulary vocabulary = Reader(file.get_object(), where).read();
  use_known_names(vocabulary);
  return vocabulary;
}

Vocabulary read_tokenizer_json(const std::string& path) {
  Vocabulary vocabulary = parse_tokenizer_json(core::read_file(path, kLimits.max_bytes), path);
  const std::string config = (std::filesystem::path(path).parent_path() / "tokenizer_config.json").string();
  if (core::exists(config)) read_tokenizer_config(config, vocabulary);
  return vocabulary;
}

void use_known_names(Vocabulary& vocabulary) {
  const auto has = [&](std::string_view text) {
    return std::any_of(vocabulary.special.begin(), vocabulary.special.end(),
                       [&](std::int32_t id) { return vocabulary.tokens[static_cast<std::size_t>(id)] == text; });
  };
  const auto first_of = [&](std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names)
      if (has(name)) return std::string(name);
    return std::string();
  };
  vocabulary.bos = first_of({"<｜begin▁of▁sentence｜>", "[BOS]"});
  vocabulary.eos = first_of({"<｜end▁of▁sentence｜>", "[EOS]"});
  vocabulary.pad = first_of({"<｜▁pad▁｜>", "[PAD]"});
}

void read_tokenizer_config(const std::string& path, Vocabulary& vocabulary) {
  const json::value file = core::read_json_file(path, kLimits);
  if (!file.is_object()) throw Error(Exit::bad_input, "not a JSON object", path, "check that it is a tokenizer_config.json");
  const json::object& config = file.get_object();
  const auto name = [&](std::string_view field, std::string& into) {
    const auto* v = config.if_contains(field);
    if (v == nullptr || v->is_null()) return;
    if (const auto* o = v->if_object()) v = o->if_contains("content");
    if (v == nullptr || !v->is_string())
      throw Error(Exit::bad_input, fmt::format("'{}' is neither a string nor an added token", field), path, "correct the file");
    into = view(v->get_string());
    if (std::none_of(vocabulary.special.begin(), vocabulary.special.end(),
                     [&](std::int32_t id) { return vocabulary.tokens[static_cast<std::size_t>(id)] == into; }))
      throw Error(Exit::bad_input, fmt::format("{} '{}' is not among the tokenizer's special tokens", field, into), path,
                  "take both files from the same model");
  };
  name("bos_token", vocabulary.bos);
  name("eos_token", vocabulary.eos);
  name("pad_token", vocabulary.pad);
  if (const auto* v = config.if_contains("add_bos_token")) vocabulary.add_bos = v->is_bool() && v->get_bool();
}

void write_tokenizer_json(const Vocabulary& vocabulary, const std::string& folder) {
  std::vector<bool> special(vocabulary.tokens.size());
  json::array added;
  for (const std::int32_t id : vocabulary.special) {
    special[static_cast<std::size_t>(id)] = true;
    added.push_back(added_token(vocabulary, id));
  }
  json::object vocab;
  std::vector<std::string> texts(vocabulary.tokens.size());
  for (std::size_t id = 0; id < texts.size(); ++id) {
    texts[id] = special[id] ? vocabulary.tokens[id] : to_byte_level(vocabulary.tokens[id]);
    vocab[texts[id]] = static_cast<std::int64_t>(id);
  }
  json::array merges;
  for (const Merge& m : vocabulary.merges)
    merges.push_back(json::array{texts[static_cast<std::size_t>(m.left)], texts[static_cast<std::size_t>(m.right)]});
  const json::object file{
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", std::move(added)},
      {"normalizer", nullptr},
      {"pre_tokenizer", vocabulary.pre_tokenizer.to_json()},
      {"post_processor", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}, {"use_regex", true}}},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", vocabulary.whole_pieces},
        {"vocab", std::move(vocab)},
        {"merges", std::move(merges)}}}};
  core::write_file_atomic((std::filesystem::path(folder) / "tokenizer.json").string(), core::pretty_json(file));
  write_tokenizer_config(vocabulary, folder);
}

void write_tokenizer_config(const Vocabulary& vocabulary, const std::string& folder) {
  json::object config{{"tokenizer_class", vocabulary.tiktoken ? "TikTokenTokenizer" : "PreTrainedTokenizerFast"},
                      {"add_bos_token", vocabulary.add_bos},
                      {"add_eos_token", false},
                      {"clean_up_tokenization_spaces", false}};
  const auto name = [&](const char* field, const std::string& text) {
    if (!text.empty()) config[field] = text;
  };
  name("bos_token", vocabulary.bos);
  name("eos_token", vocabulary.eos);
  name("pad_token", vocabulary.pad);
  if (vocabulary.tiktoken) {  // such a folder keeps its special tokens here
    json::object decoder;
    for (const std::int32_t id : vocabulary.special) {
      json::object token = added_token(vocabulary, id);
      token.erase("id");
      decoder[std::to_string(id)] = std::move(token);
    }
    config["added_tokens_decoder"] = std::move(decoder);
  }
  core::write_file_atomic((std::filesystem::path(folder) / "tokenizer_config.json").string(), core::pretty_json(config));
}

}  // namespace finback::text
