// Any bytes as a config.json; an accepted one writes itself so that it reads back the same.
#include "core/json.h"
#include "model/config.h"
#include "tests/fuzz/fuzz.h"

#include <boost/json/serialize.hpp>

FUZZ(input) {
  const auto config = finback::model::parse_config(finback::core::parse_json(input, "input"), "input");
  const auto json = finback::model::to_json(config);
  const auto again = finback::model::to_json(finback::model::parse_config(json, "again"));
  FB_CHECK(again == json, "{}", boost::json::serialize(json));
}
