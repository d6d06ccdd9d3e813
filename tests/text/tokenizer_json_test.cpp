// Reading and writing Hugging Face files: what is written reads back the same, and every bad file ends with an Error of
// exit code 3 that names the field.
#include "text/tokenizer_json.h"

#include "core/error.h"
#include "core/file.h"
#include "tests/text/small.h"

#include <gtest/gtest.h>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <filesystem>
#include <functional>

namespace finback::text {
namespace {

namespace json = boost::json;

std::string folder(const char* name) { return testing::TempDir() + "finback_tokenizer_json_" + name; }

std::string small_file() {
  const std::string at = folder("small");
  small_tokenizer().save(at);
  return core::read_file(at + "/tokenizer.json", 1 << 20);
}

// The message of the error that reading `text` ends with; empty if there is none.
std::string refusal(std::string_view text) {
  try {
    const Tokenizer t(parse_tokenizer_json(text, "FILE"));
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::Exit::bad_input);
    EXPECT_NE(std::string_view(e.what()).find("FILE"), std::string_view::npos) << e.what();
    return e.what();
  }
  return "";
}

std::string refusal_after(const std::function<void(json::object&)>& change) {
  json::value file = json::parse(small_file());
  change(file.as_object());
  return refusal(json::serialize(file));
}

TEST(TokenizerJson, WhatIsWrittenReadsBackTheSame) {
  const std::string at = folder("round"), again = folder("again");
  const Tokenizer first = small_tokenizer();
  first.save(at);
  const Tokenizer second = Tokenizer::load(at);
  EXPECT_EQ(second.vocabulary().tokens, first.vocabulary().tokens);
  EXPECT_EQ(second.vocabulary().special, first.vocabulary().special);
  EXPECT_EQ(second.bos_id(), 0);
  EXPECT_EQ(second.eos_id(), 1);
  EXPECT_EQ(second.pad_id(), 2);
  ASSERT_TRUE(second.fim());
  EXPECT_EQ(second.fim()->begin, *first.id_of("<｜fim▁begin｜>"));
  const std::string text = "the cat 中中中 777\n\n e\u0301 <｜User｜>";
  EXPECT_EQ(second.encode(text), first.encode(text));
  EXPECT_EQ(second.encode(text, true), first.encode(text, true));
  second.save(again);
  for (const char* file : {"/tokenizer.json", "/tokenizer_config.json"})
    EXPECT_EQ(core::read_file(again + file, 1 << 20), core::read_file(at + file, 1 << 20));
  EXPECT_EQ(Tokenizer::load(at + "/tokenizer.json").encode(text), first.encode(text));
}

TEST(TokenizerJson, MergesMayBeStringsWithASpace) {
  json::value file = json::parse(small_file());
  json::array& merges = file.at("model").as_object().at("merges").as_array();
  for (json::value& m : merges) m = std::string(m.as_array()[0].as_string()) + " " + std::string(m.as_array()[1].as_string());
  const Tokenizer t(parse_tokenizer_json(json::serialize(file), "test"));
  EXPECT_EQ(t.encode("the cat"), small_tokenizer().encode("the cat"));
}

TEST(TokenizerJson, BadFilesAreRefusedByName) {
  const auto model = [](json::object& f) -> json::object& { return f.at("model").as_object(); };
  const auto vocab = [&](json::object& f) -> json::object& { return model(f).at("vocab").as_object(); };
  const auto added = [](json::object& f) -> json::object& { return f.at("added_tokens").as_array()[1].as_object(); };
  const std::vector<std::pair<std::string, std::function<void(json::object&)>>> cases = {
      {"merges", [&](json::object& f) { model(f).erase("merges"); }},
      {"model.merges[3]",
       [&](json::object& f) {
         model(f)["merges"].as_array()[3] = {"c", "zz"};
       }},
      {"model.merges[3]",
       [&](json::object& f) {
         model(f)["merges"].as_array()[3] = {"c", "z"};
       }},
      {"model.merges[4]", [&](json::object& f) { model(f)["merges"].as_array()[4] = model(f)["merges"].as_array()[3]; }},
      {"model.merges[0]", [&](json::object& f) { model(f)["merges"].as_array()[0] = "th"; }},
      {"model.merges[0]", [&](json::object& f) { model(f)["merges"].as_array()[0] = 7; }},
      {"some ids are missing", [&](json::object& f) { vocab(f)["the"] = 100000; }},
      {"twice", [&](json::object& f) { vocab(f)["the"] = 20; }},
      {"'the'", [&](json::object& f) { vocab(f)["the"] = -1; }},
      {"'the'", [&](json::object& f) { vocab(f)["the"] = 1e30; }},
      {"'the'", [&](json::object& f) { vocab(f)["the"] = "20"; }},
      {"byte-level", [&](json::object& f) { vocab(f)["a b"] = vocab(f).size(); }},
      {"byte 0x41", [&](json::object& f) { vocab(f)["AAA"] = vocab(f).at("A"), vocab(f).erase("A"); }},
      {"vocab", [&](json::object& f) { model(f)["vocab"] = json::array{}; }},
      {"model", [&](json::object& f) { f.erase("model"); }},
      {"'Unigram'", [&](json::object& f) { model(f)["type"] = "Unigram"; }},
      {"dropout", [&](json::object& f) { model(f)["dropout"] = 0.1; }},
      {"byte_fallback", [&](json::object& f) { model(f)["byte_fallback"] = true; }},
      {"continuing_subword_prefix", [&](json::object& f) { model(f)["continuing_subword_prefix"] = "##"; }},
      {"without content", [&](json::object& f) { added(f)["content"] = ""; }},
      {"twice", [&](json::object& f) { added(f)["content"] = f.at("added_tokens").as_array()[0].at("content"); }},
      {"model.vocab", [&](json::object& f) { added(f)["id"] = 2; }},
      {"without id", [&](json::object& f) { added(f).erase("id"); }},
      {"lstrip", [&](json::object& f) { added(f)["lstrip"] = true; }},
      {"added_tokens", [&](json::object& f) { f["added_tokens"] = 3; }},
      {"'NFC'",
       [&](json::object& f) {
         f["normalizer"] = json::object{{"type", "NFC"}};
       }},
      {"'Metaspace'",
       [&](json::object& f) {
         f["pre_tokenizer"] = json::object{{"type", "Metaspace"}};
       }},
      {"pre_tokenizer", [&](json::object& f) { f["pre_tokenizer"] = nullptr; }},
      {"'Metaspace'",
       [&](json::object& f) {
         f["decoder"] = json::object{{"type", "Metaspace"}};
       }},
  };
  for (const auto& [name, change] : cases) {
    const std::string message = refusal_after(change);
    EXPECT_NE(message.find(name), std::string::npos) << name << ": " << message;
  }
  EXPECT_EQ(refusal_after([](json::object&) {}), "");
  for (const char* text : {"", "[]", "{", "{}", "null", "{\"model\": 1}", "\xFF"}) EXPECT_NE(refusal(text), "") << text;
  EXPECT_NE(refusal(std::string(100000, '[')), "");
}

TEST(TokenizerJson, EveryCutOfAFileIsRefused) {
  const std::string file = small_file();
  for (std::size_t n = 0; n + 2 < file.size(); n += 97) EXPECT_NE(refusal(std::string_view(file).substr(0, n)), "") << n;
}

TEST(TokenizerJson, AFileThatIsTooLargeIsNotRead) {
  const std::string path = folder("large") + ".json";
  core::write_file_atomic(path, "{}");
  std::filesystem::resize_file(path, std::uintmax_t{1} << 30);
  EXPECT_THROW(Tokenizer::load(path), core::Error);
  core::sys::remove_tree(path);
}

TEST(TokenizerJson, ConfigurationNamesTokensThatExist) {
  const std::string at = folder("config");
  small_tokenizer().save(at);
  const auto with = [&](const char* config) {
    core::write_file_atomic(at + "/tokenizer_config.json", config);
    return Tokenizer::load(at);
  };
  EXPECT_EQ(with("{}").eos_id(), 1);
  EXPECT_EQ(with(R"({"eos_token": {"content": "<｜User｜>"}, "pad_token": null, "add_bos_token": true})").eos_id(),
            *small_tokenizer().id_of("<｜User｜>"));
  EXPECT_TRUE(with(R"({"add_bos_token": true})").add_bos());
  for (const char* bad : {R"({"bos_token": "<s>"})", R"({"bos_token": 3})", "[]", "{"}) EXPECT_THROW(with(bad), core::Error) << bad;
  core::sys::remove_tree(at + "/tokenizer_config.json");
  core::sys::remove_tree(at + "/tokenizer.json");
  EXPECT_THROW(Tokenizer::load(at), core::Error);
}

}  // namespace
}  // namespace finback::text
