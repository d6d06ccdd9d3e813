// JSON from outside, with limits. Boost.JSON does the parsing; this adds what it does not refuse by itself: size, depth,
// duplicate keys and text after the value.
#pragma once

#include "core/error.h"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace finback::core {

struct JsonLimits {
  std::uint64_t max_bytes = 64 << 20;
  unsigned max_depth = 64;
  Exit exit = Exit::bad_input;
};

// Throws Error(limits.exit) that names `where` and the byte offset.
boost::json::value parse_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});
boost::json::value read_json_file(const std::string& path, const JsonLimits& limits = {});

// Indented by two spaces, keys in the order they were put in, a newline at the end: for files that people read.
std::string pretty_json(const boost::json::value& value);

}  // namespace finback::core
