#include "data/documents.h"

#include "core/json.h"
#include "core/rng.h"
#include "tests/formats/temp_folder.h"

#include <zstd.h>

#include <vector>

namespace finback::data {
namespace {

using core::Exit;
using finback::testing::expect_error;
using finback::testing::TempFolder;
using Split = DocumentFormat::Split;

std::string compressed(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), 0);
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

// Words, line breaks, blank lines and markers in random order.
std::string random_text(std::size_t words, std::uint64_t seed) {
  const std::vector<std::string> parts{"word", " ", "\n",     "\n", "\n\n",   "\r\n", "\n \n", ".",
                                       "Zeit", "7", "\n--\n", "--", "\n\n\n", "你好", "\t"};
  const core::Rng rng(seed, core::Stream::test);
  std::string text = "start ";
  for (std::size_t i = 0; i < words; ++i) text += parts[rng.below(i, parts.size())];
  return text + "x";
}

std::vector<std::string> documents_of(const std::string& path, const DocumentFormat& format, std::vector<std::string>* chunks = nullptr) {
  std::vector<std::string> documents(1);
  ChunkReader reader(path, format);
  for (Chunk chunk; reader.next(chunk);) {
    if (chunks) chunks->push_back(chunk.text);
    for_each_document(chunk, format, path, [&](std::string_view text, bool ends) {
      documents.back() += text;
      if (ends) documents.emplace_back();
    });
  }
  EXPECT_EQ(documents.back(), "");  // the last one was ended
  documents.pop_back();
  return documents;
}

TEST(Documents, ChunksJoinToTheFileAndEndBetweenPieces) {
  const TempFolder folder;
  const std::string text = random_text(3000, 1), path = folder / "a.txt";
  core::write_file_atomic(path, text);
  for (const std::size_t bytes : {16, 100, 1000, 1 << 20}) {
    DocumentFormat format{.marker = "none", .chunk_bytes = bytes};
    std::vector<std::string> chunks;
    EXPECT_EQ(documents_of(path, format, &chunks), std::vector<std::string>{text});
    std::string joined;
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      joined += chunks[c];
      if (c + 1 < chunks.size()) {
        EXPECT_EQ(chunks[c].back(), '\n');
        EXPECT_TRUE(std::isalnum(static_cast<unsigned char>(chunks[c + 1][0])));
      }
    }
    EXPECT_EQ(joined, text);
    EXPECT_EQ(chunks.size() > 1, bytes < text.size());
  }
}

// DeepSeek-V2's chain, as its tokenizer.json has it, with or without the split that divides lines.
text::PreTokenizer chain(bool lines_first) {
  const std::string split = R"({"type": "Split", "pattern": {"Regex": "%"}, "behavior": "Isolated", "invert": false}, )";
  std::string stages;
  for (const std::string pattern :
       {R"([\\r\\n])", R"(\\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+)", R"(\\s?[!-/:-~！-／：-～‘-‟　-。]+)", R"(\\s+$)", R"([一-龥ࠀ-一가-퟿]+)"})
    if (lines_first || !pattern.starts_with(R"([\\)")) stages += std::string(split).replace(split.find('%'), 1, pattern);
  return text::PreTokenizer::from_json(
      core::parse_json(
          R"({"type": "Sequence", "pretokenizers": [)" + stages +
              R"({"type": "Digits", "individual_digits": true}, {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})",
          "chain"),
      "chain");
}

TEST(Documents, AreCutWherePreTokenizersEndAPiece) {
  for (const auto& pre_tokenizer : {text::PreTokenizer::deepseek_v3(), text::PreTokenizer::kimi(), chain(true)}) {
    EXPECT_TRUE(ends_pieces_at_line_breaks(pre_tokenizer));
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
      const std::string text = random_text(300, seed);
      std::vector<bool> ends(text.size() + 1);
      pre_tokenizer.split(text, [&](const char*, const char* end) { ends[static_cast<std::size_t>(end - text.data())] = true; });
      for (std::size_t cut = 1; cut < text.size(); ++cut) {
        if (text[cut - 1] == '\n' && std::isalnum(static_cast<unsigned char>(text[cut]))) {
          ASSERT_TRUE(ends[cut]) << text.substr(0, cut);
        }
      }
    }
  }
  EXPECT_FALSE(ends_pieces_at_line_breaks(chain(false)));
}

TEST(Documents, AreTheSameHoweverTheFileIsDivided) {
  const TempFolder folder;
  const std::string path = folder / "a.txt";
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    core::write_file_atomic(path, random_text(400, seed));
    for (const Split split : {Split::none, Split::blank_line, Split::line, Split::marker}) {
      for (const char* marker : {"--", "\n--\n", "\nword", "x"}) {
        DocumentFormat format{.split = split, .marker = marker, .chunk_bytes = 1 << 20};
        const auto whole = documents_of(path, format);
        for (const std::size_t bytes : {8, 64, 300}) {
          format.chunk_bytes = bytes;
          ASSERT_EQ(documents_of(path, format), whole) << seed << " " << static_cast<int>(split) << " " << bytes;
        }
      }
    }
  }
}

TEST(Documents, AreDividedAsAsked) {
  const TempFolder folder;
  const std::string path = folder / "a.txt";
  const auto of = [&](const std::string& text, Split split, const std::string& marker = "##") {
    core::write_file_atomic(path, text);
    return documents_of(path, {.split = split, .marker = marker});
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(of("a\n\nb\n", Split::none), (Texts{"a\n\nb\n"}));
  EXPECT_EQ(of("a\nb\n\nc\n", Split::blank_line), (Texts{"a\nb\n", "c\n"}));
  EXPECT_EQ(of("a\r\n \t\r\n\r\nb", Split::blank_line), (Texts{"a\r\n", "b"}));
  EXPECT_EQ(of("a\nb\n", Split::line), (Texts{"a", "b"}));
  EXPECT_EQ(of("a##b\n##", Split::marker), (Texts{"a", "b\n"}));
  EXPECT_EQ(of("\xEF\xBB\xBFxyz", Split::none), (Texts{"xyz"}));  // without the byte-order mark
}

TEST(Documents, ReadsJsonLines) {
  const TempFolder folder;
  const std::string path = folder / "a.jsonl";
  core::write_file_atomic(path, "{\"text\": \"one\\n\\u00e9\", \"id\": 1}\r\n\n{\"id\": [2], \"text\": \"\"}\n{\"text\":\"three\"}");
  for (const std::size_t bytes : {1, 20, 1000}) {
    const DocumentFormat format{.format = Format::jsonl, .chunk_bytes = bytes};
    EXPECT_EQ(documents_of(path, format), (std::vector<std::string>{"one\né", "", "three"}));
  }
}

TEST(Documents, GoesOnAnywhereInAFile) {
  const TempFolder folder;
  const std::string text = random_text(3000, 2);
  core::write_file_atomic(folder / "a.txt", text);
  core::write_file_atomic(folder / "a.txt.zst", compressed(text));
  const DocumentFormat format{.chunk_bytes = 500};
  for (const char* name : {"a.txt", "a.txt.zst"}) {
    ChunkReader reader(folder / name, format);
    for (Chunk chunk; reader.next(chunk);) {
      const std::string before = text.substr(0, reader.offset());
      EXPECT_EQ(reader.line(), 1 + std::count(before.begin(), before.end(), '\n'));
      std::string rest;
      ChunkReader later(folder / name, format, reader.offset(), reader.line());
      for (Chunk c; later.next(c);) rest += c.text;
      ASSERT_EQ(before + rest, text);
    }
  }
}

TEST(Documents, ReadsSeveralFramesOfZstd) {
  const TempFolder folder;
  core::write_file_atomic(folder / "a.txt.zst", compressed("one ") + compressed("") + compressed("two"));
  EXPECT_EQ(documents_of(folder / "a.txt.zst", {}), std::vector<std::string>{"one two"});
}

TEST(Documents, NamesTheBadLine) {
  const TempFolder folder;
  const std::string path = folder / "a.jsonl", good = "{\"text\": \"a\"}\n";
  const auto refuse = [&](const std::string& line, std::initializer_list<std::string_view> parts) {
    core::write_file_atomic(path, good + good + line + "\n" + good);
    for (const std::size_t bytes : {1, 1000}) {
      DocumentFormat format{.format = Format::jsonl, .chunk_bytes = bytes};
      expect_error(Exit::bad_input, parts, [&] { documents_of(path, format); });
      expect_error(Exit::bad_input, {"a.jsonl line 3"}, [&] { documents_of(path, format); });
      format.skip_bad_lines = true;
      EXPECT_EQ(documents_of(path, format).size(), 3u);
    }
  };
  refuse("{\"text\": ", {"not valid JSON"});
  refuse("[1]", {"not a JSON object"});
  refuse("{\"body\": \"a\", \"id\": 2}", {"no field 'text'", "--field", "body, id"});
  refuse("{\"text\": 5}", {"not a string"});
  refuse("{\"text\": \"\\ud800\"}", {"not valid JSON"});
  refuse(std::string("{\"text\": \"\0\"}", 13), {"not valid JSON"});
  refuse("{\"text\": \"a\"} x", {"after the JSON value"});
  refuse(std::string(100, '['), {"not valid JSON"});
}

TEST(Documents, RefusesWhatIsNotText) {
  const TempFolder folder;
  core::write_file_atomic(folder / "binary.txt", std::string("ELF\x01\0\0", 6));
  expect_error(Exit::bad_input, {"zero byte at byte 4", "binary.txt"}, [&] { documents_of(folder / "binary.txt", {}); });
  core::write_file_atomic(folder / "plain.txt.zst", "this is not compressed");
  expect_error(Exit::bad_input, {"damaged zstd"}, [&] { documents_of(folder / "plain.txt.zst", {}); });
  const std::string whole = compressed(random_text(5000, 3));
  core::write_file_atomic(folder / "cut.txt.zst", whole.substr(0, whole.size() / 2));
  expect_error(Exit::bad_input, {"middle of a frame"}, [&] { documents_of(folder / "cut.txt.zst", {}); });
  expect_error(Exit::io, {"missing"}, [&] { documents_of(folder / "missing.txt", {}); });
  expect_error(Exit::bad_input, {"shorter"}, [&] { ChunkReader(folder / "binary.txt", {}, 100); });
}

}  // namespace
}  // namespace finback::data
