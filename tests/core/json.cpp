#include "core/json.h"

#include "core/rng.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>

namespace finback::core {
namespace {

void refuses(std::string_view text, std::string_view part, JsonLimits limits = {}) {
  try {
    parse_json(text, "x.json", limits);
    ADD_FAILURE() << "accepted " << text.substr(0, 60);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), limits.exit);
    EXPECT_NE(std::string_view(e.what()).find(part), std::string_view::npos) << e.what();
    EXPECT_NE(std::string_view(e.what()).find("x.json"), std::string_view::npos) << e.what();
  }
}

TEST(Json, ReadsAllKindsOfValues) {
  const auto v = parse_json(" {\"a\": [1, -2, 1.5, 18446744073709551615, true, false, null, \"\\u00e9\\n\"], \"b\": {}} \n", "x");
  const auto& a = v.at("a").as_array();
  EXPECT_EQ(a[0].as_int64(), 1);
  EXPECT_EQ(a[1].as_int64(), -2);
  EXPECT_EQ(a[2].as_double(), 1.5);
  EXPECT_EQ(a[3].as_uint64(), ~0ull);
  EXPECT_TRUE(a[6].is_null());
  EXPECT_EQ(a[7].as_string(), "é\n");
  EXPECT_TRUE(v.at("b").as_object().empty());
}

TEST(Json, NumbersAreTheNearestDoubles) {
  for (const char* text : {"0.1", "1e-6", "2.225073858507201e-308", "1.7976931348623157e308", "0.30000000000000004", "9007199254740993.0",
                           "1e23", "8.41e21", "5e-324", "0.000123456789012345678", "-0.0", "6.02214076e23"}) {
    EXPECT_EQ(parse_json(text, "x").as_double(), std::strtod(text, nullptr)) << text;
    const auto again = parse_json(pretty_json(parse_json(text, "x")), "x");
    EXPECT_EQ(again.as_double(), std::strtod(text, nullptr)) << text;
  }
  EXPECT_EQ(parse_json("[1e-999]", "x").as_array()[0].as_double(), 0);
  const Rng rng(4, Stream::test);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const auto value = std::bit_cast<double>(rng.bits(i));
    if (!std::isfinite(value)) continue;
    const std::string text = fmt::format("{:.16e}", value);  // enough digits to tell all doubles apart
    ASSERT_EQ(parse_json(text, "x").as_double(), value) << text;
    ASSERT_EQ(parse_json(pretty_json(value), "x").as_double(), value) << text;
  }
}

TEST(Json, DoublesArePrintedAsPeopleWriteThem) {
  EXPECT_EQ(pretty_json(boost::json::value(0.25)), "0.25\n");
  EXPECT_EQ(pretty_json(boost::json::value(1e-6)), "1e-06\n");
  EXPECT_EQ(pretty_json(boost::json::value(7749.0)), "7749.0\n");  // still a double when it is read again
}

TEST(Json, RefusesWhatIsNotOneValue) {
  refuses("", "not valid JSON at byte 0");
  refuses("{\"a\":}", "not valid JSON at byte 5");
  refuses("[1,]", "not valid JSON at byte 3");
  refuses("[1", "not valid JSON at byte 2");
  refuses("{\"a\":1} x", "text after the JSON value at byte 8");
  refuses("[1] [2]", "text after the JSON value at byte 4");
  refuses("NaN", "not valid JSON at byte 0");
  refuses("1e999", "not valid JSON");
  refuses("[-1e999]", "not valid JSON");
  refuses("[// comment\n1]", "not valid JSON");
  refuses("\"\xc3\x28\"", "not valid JSON");  // broken UTF-8
  refuses("\"\\ud800\"", "not valid JSON");   // half a surrogate pair
  refuses(std::string_view("1\0", 2), "text after the JSON value at byte 1");
}

TEST(Json, RefusesDuplicateKeysAtEveryDepth) {
  refuses(R"({"a":1,"a":2})", "duplicate key 'a'");
  refuses(R"([{"b":{"c":1,"c":1}}])", "duplicate key 'c'");
  refuses(R"({"ab":1,"\u0061b":2})", "duplicate key 'ab'");
  refuses(R"({"":1,"":2})", "duplicate key ''");
  EXPECT_NO_THROW(parse_json(R"([{"a":1},{"a":{"a":2}}])", "x"));
}

TEST(Json, HasLimits) {
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "x"));
  refuses(std::string(65, '[') + std::string(65, ']'), "not valid JSON at byte");
  refuses(std::string(1'000'000, '['), "not valid JSON at byte");
  refuses("[1, 2]", "6 bytes, at most 5", {.max_bytes = 5});
  refuses("[[1]]", "not valid JSON", {.max_depth = 1});
  refuses("x", "not valid JSON", {.exit = Exit::usage});
}

TEST(Json, PrettyTextReadsBackAndKeepsOrder) {
  const std::string text = "{\n  \"z\": 1,\n  \"a\": {\n    \"deep\\\"er\": [1,2]\n  },\n  \"e\": {}\n}\n";
  EXPECT_EQ(pretty_json(parse_json(text, "x")), text);
}

}  // namespace
}  // namespace finback::core
