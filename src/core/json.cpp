#include "core/json.h"

#include "core/file.h"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value_stack.hpp>

#include <charconv>
#include <cmath>
#include <unordered_set>
#include <vector>

namespace finback::core {
namespace {

namespace json = boost::json;

// Builds the value as it is parsed and refuses a key that its object already has.
struct Handler {
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);

  json::value_stack stack;
  std::string text;  // of the key, string or number being read
  std::vector<std::unordered_set<std::string>> keys;
  std::string duplicate;

  bool on_document_begin(json::error_code&) {
    stack.reset();
    return true;
  }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    keys.emplace_back();
    return true;
  }
  bool on_object_end(std::size_t n, json::error_code&) {
    keys.pop_back();
    stack.push_object(n);
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(std::size_t n, json::error_code&) {
    stack.push_array(n);
    return true;
  }
  bool on_key_part(json::string_view s, std::size_t, json::error_code&) {
    text.append(s.data(), s.size());
    return true;
  }
  bool on_key(json::string_view s, std::size_t, json::error_code& ec) {
    text.append(s.data(), s.size());
    if (!keys.back().insert(text).second) {
      duplicate = text;
      ec = json::error::exception;
      return false;
    }
    stack.push_key(text);
    text.clear();
    return true;
  }
  bool on_string_part(json::string_view s, std::size_t, json::error_code&) {
    text.append(s.data(), s.size());
    return true;
  }
  bool on_string(json::string_view s, std::size_t, json::error_code&) {
    text.append(s.data(), s.size());
    stack.push_string(text);
    text.clear();
    return true;
  }
  bool on_number_part(json::string_view s, json::error_code&) {
    text.append(s.data(), s.size());
    return true;
  }
  bool on_int64(std::int64_t i, json::string_view, json::error_code&) {
    text.clear();
    stack.push_int64(i);
    return true;
  }
  bool on_uint64(std::uint64_t u, json::string_view, json::error_code&) {
    text.clear();
    stack.push_uint64(u);
    return true;
  }
  // The parser's own double may be a few units off in the last place; a learning rate or a state must read back exactly.
  bool on_double(double rough, json::string_view s, json::error_code& ec) {
    text.append(s.data(), s.size());
    double exact = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), exact);
    text.clear();
    if (result.ec == std::errc::result_out_of_range && std::abs(rough) > 1) {
      ec = json::error::exponent_overflow;
      return false;
    }
    stack.push_double(exact);
    return true;
  }
  bool on_bool(bool b, json::error_code&) {
    stack.push_bool(b);
    return true;
  }
  bool on_null(json::error_code&) {
    stack.push_null();
    return true;
  }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }
};

void print(std::string& out, const json::value& value, int indent) {
  const auto pad = [&](int n) { out.append(static_cast<std::size_t>(2 * n), ' '); };
  if (value.is_object() && !value.get_object().empty()) {
    out += "{\n";
    bool first = true;
    for (const auto& [key, item] : value.get_object()) {
      if (!first) out += ",\n";
      first = false;
      pad(indent + 1);
      out += json::serialize(json::string(key));
      out += ": ";
      print(out, item, indent + 1);
    }
    out += '\n';
    pad(indent);
    out += '}';
  } else if (value.is_double() && std::isfinite(value.get_double())) {
    // The shortest digits that read back as the same double; with a point or an exponent, so that it stays one.
    const std::string digits = fmt::format("{}", value.get_double());
    out += digits;
    if (digits.find_first_of(".e") == std::string::npos) out += ".0";
  } else if (value.is_double() && std::isnan(value.get_double())) {
    out += "null";  // JSON has no NaN
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

boost::json::value parse_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes)
    throw Error(limits.exit, fmt::format("JSON of {} bytes, at most {} are taken", text.size(), limits.max_bytes), where,
                "check that it is the right file");
  json::parse_options options;
  options.max_depth = limits.max_depth;
  json::basic_parser<Handler> parser(options);
  json::error_code ec;
  const std::size_t n = parser.write_some(false, text.data(), text.size(), ec);
  if (!parser.handler().duplicate.empty() || ec == json::error::exception)
    throw Error(limits.exit, fmt::format("duplicate key '{}' before byte {}", parser.handler().duplicate, n), where, "keep one of them");
  if (ec) throw Error(limits.exit, fmt::format("not valid JSON at byte {}: {}", n, ec.message()), where, "correct the file");
  for (std::size_t i = n; i < text.size(); ++i)
    if (std::string_view(" \t\r\n").find(text[i]) == std::string_view::npos)
      throw Error(limits.exit, fmt::format("text after the JSON value at byte {}", i), where, "remove it");
  return parser.handler().stack.release();
}

boost::json::value read_json_file(const std::string& path, const JsonLimits& limits) {
  return parse_json(read_file(path, limits.max_bytes), path, limits);
}

std::string pretty_json(const boost::json::value& value) {
  std::string out;
  print(out, value, 0);
  out += '\n';
  return out;
}

}  // namespace finback::core
