// Any bytes as JSON; what is accepted reads back from its pretty text as the same value.
#include "core/json.h"
#include "tests/fuzz/fuzz.h"

FUZZ(input) {
  const auto value = finback::core::parse_json(input, "input");
  const std::string text = finback::core::pretty_json(value);
  FB_CHECK(finback::core::parse_json(text, "again") == value, "{}", text);
}
