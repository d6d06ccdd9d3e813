#include "text/pretokenizer.h"

#include "core/error.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

namespace finback::text {
namespace {

namespace json = boost::json;
using core::Error;
using core::Exit;

constexpr std::string_view kV3Numbers = "\\p{N}{1,3}";
constexpr std::string_view kV3Cjk = "[一-龥\u3040-ゟ゠-ヿ]+";
constexpr std::string_view kV3Words =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
constexpr std::string_view kKimi =
    "[\\p{Han}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

// Line breaks are written both as themselves and as escapes: the same pattern.
std::string with_escapes(std::string_view pattern) {
  std::string out;
  for (const char c : pattern) {
    if (c == '\r') out += "\\r";
    else if (c == '\n') out += "\\n";
    else out += c;
  }
  return out;
}

[[noreturn]] void refuse(const std::string& what, std::string_view where) {
  throw Error(Exit::bad_input, what, where, "use a tokenizer of the DeepSeek or Kimi family, or train one");
}

const json::value& field(const json::object& object, std::string_view name, std::string_view where) {
  const auto* value = object.if_contains(name);
  if (value == nullptr) throw Error(Exit::bad_input, fmt::format("missing field '{}'", name), where, "correct the file");
  return *value;
}

bool flag(const json::object& object, std::string_view name, bool otherwise, std::string_view where) {
  const auto* value = object.if_contains(name);
  if (value == nullptr) return otherwise;
  if (!value->is_bool()) throw Error(Exit::bad_input, fmt::format("'{}' is not true or false", name), where, "correct the file");
  return value->get_bool();
}

std::string_view text_field(const json::object& object, std::string_view name, std::string_view where) {
  const json::value& value = field(object, name, where);
  if (!value.is_string()) throw Error(Exit::bad_input, fmt::format("'{}' is not a string", name), where, "correct the file");
  return {value.get_string().data(), value.get_string().size()};
}

json::object byte_level_json() {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
}

}  // namespace

PreTokenizer::Stage PreTokenizer::split_stage(std::string_view pattern, std::string_view where) {
  Stage stage{Stage::Kind::run, std::string(pattern), {}};
  const std::string escaped = with_escapes(pattern);
  if (escaped == with_escapes(kV3Words)) stage.kind = Stage::Kind::words;
  else if (escaped == kKimi) stage.kind = Stage::Kind::kimi;
  else if (!RunPattern::parse(pattern, stage.run)) refuse(fmt::format("the split pattern '{}' is not supported", escaped), where);
  return stage;
}

PreTokenizer::Stage PreTokenizer::digits_stage(bool individual) {
  Stage stage{individual ? Stage::Kind::digits : Stage::Kind::digit_runs, {}, {}};
  stage.run.set.add(kNumber);
  // The compared package asks Rust's standard library here, which has Unicode 17: these are new in it.
  stage.run.set.add(0x11DE0, 0x11DE9);
  stage.run.set.add(0x16FF4, 0x16FF6);
  stage.run.most = individual ? 1 : 0;
  return stage;
}

PreTokenizer::PreTokenizer(std::vector<Stage> stages) : stages_(std::move(stages)) {
  const auto is = [&](std::size_t i, std::string_view pattern) { return with_escapes(stages_[i].pattern) == with_escapes(pattern); };
  if (stages_.size() == 3 && is(0, kV3Numbers) && is(1, kV3Cjk) && is(2, kV3Words)) scanner_ = Scanner::deepseek_v3;
  if (stages_.size() == 1 && is(0, kKimi)) scanner_ = Scanner::kimi;
}

PreTokenizer PreTokenizer::deepseek_v3() {
  return PreTokenizer({split_stage(kV3Numbers, {}), split_stage(kV3Cjk, {}), split_stage(kV3Words, {})});
}

PreTokenizer PreTokenizer::kimi() { return PreTokenizer({split_stage(kKimi, {})}); }

PreTokenizer PreTokenizer::from_json(const json::value& value, std::string_view where) {
  const auto object_of = [&](const json::value& v) -> const json::object& {
    if (!v.is_object()) throw Error(Exit::bad_input, "a pre_tokenizer is not an object", where, "correct the file");
    return v.get_object();
  };
  std::vector<const json::object*> parts;
  const json::object& top = object_of(value);
  if (text_field(top, "type", where) == "Sequence") {
    const json::value& list = field(top, "pretokenizers", where);
    if (!list.is_array()) throw Error(Exit::bad_input, "'pretokenizers' is not a list", where, "correct the file");
    for (const json::value& v : list.get_array()) parts.push_back(&object_of(v));
  } else {
    parts.push_back(&top);
  }
  std::vector<Stage> stages;
  bool byte_level = false;
  for (const json::object* part : parts) {
    const std::string_view type = text_field(*part, "type", where);
    if (byte_level) refuse(fmt::format("pre_tokenizer '{}' after ByteLevel is not supported", type), where);
    if (type == "Split") {
      const json::object& pattern = object_of(field(*part, "pattern", where));
      if (!pattern.contains("Regex")) refuse("a Split by a plain string is not supported", where);
      const std::string_view behavior = text_field(*part, "behavior", where);
      if (behavior != "Isolated") refuse(fmt::format("Split behavior '{}' is not supported", behavior), where);
      if (flag(*part, "invert", false, where)) refuse("an inverted Split is not supported", where);
      stages.push_back(split_stage(text_field(pattern, "Regex", where), where));
    } else if (type == "Digits") {
      stages.push_back(digits_stage(flag(*part, "individual_digits", false, where)));
    } else if (type == "ByteLevel") {
      if (flag(*part, "use_regex", true, where)) refuse("ByteLevel with its own pattern (use_regex) is not supported", where);
      if (flag(*part, "add_prefix_space", true, where)) refuse("ByteLevel with add_prefix_space is not supported", where);
      byte_level = true;
    } else {
      refuse(fmt::format("pre_tokenizer '{}' is not supported", type), where);
    }
  }
  if (!byte_level) refuse("a pre_tokenizer without ByteLevel is not supported", where);
  return PreTokenizer(std::move(stages));
}

json::value PreTokenizer::to_json() const {
  json::array parts;
  for (const Stage& stage : stages_) {
    if (stage.pattern.empty()) parts.push_back(json::object{{"type", "Digits"}, {"individual_digits", stage.kind == Stage::Kind::digits}});
    else
      parts.push_back(json::object{
          {"type", "Split"}, {"pattern", json::object{{"Regex", stage.pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  parts.push_back(byte_level_json());
  return json::object{{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
}

const char* PreTokenizer::Stage::next_piece(const char* p, const char* end) const {
  switch (kind) {
    case Kind::words:
      return next_piece_deepseek_v3_words(p, end);
    case Kind::kimi:
      return next_piece_kimi(p, end);
    default:
      return run.next_piece(p, end);
  }
}

std::vector<const char*> PreTokenizer::split_by_chain(std::string_view text) const {
  std::vector<const char*> ends, finer;
  if (!text.empty()) ends.push_back(text.data() + text.size());
  for (const Stage& stage : stages_) {
    finer.clear();
    finer.reserve(ends.size() * 2);
    const char* p = text.data();
    for (const char* const end : ends)
      while (p < end) finer.push_back(p = stage.next_piece(p, end));
    ends.swap(finer);
  }
  return ends;
}

}  // namespace finback::text
