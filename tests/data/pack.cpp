#include "data/pack.h"

#include "core/rng.h"
#include "data/stream.h"
#include "formats/megatron.h"
#include "tests/formats/temp_folder.h"

#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include <csignal>
#include <vector>

namespace finback::data {
namespace {

using core::Exit;
using finback::testing::expect_error;
using finback::testing::TempFolder;

// Bytes, a few merges, and the token that ends a text.
text::Tokenizer small_tokenizer() {
  text::Vocabulary v;
  for (int b = 0; b < 256; ++b) v.tokens.emplace_back(1, static_cast<char>(b));
  for (const auto& [left, right] : {std::pair{'t', 'h'}, std::pair{'e', ' '}, std::pair{'.', '\n'}}) {
    v.merges.push_back({left, right, static_cast<std::int32_t>(v.tokens.size()), static_cast<std::uint32_t>(v.merges.size())});
    v.tokens.push_back({left, right});
  }
  v.special.push_back(static_cast<std::int32_t>(v.tokens.size()));
  v.eos = "<|end|>";
  v.tokens.push_back(v.eos);
  return text::Tokenizer(std::move(v));
}

std::string some_text(std::size_t words, std::uint64_t seed) {
  const std::vector<std::string> parts{"the ", "moth ", "the moth", "other. ", "end.\n", "\n\n", "\xFF", "é ", "7 "};
  const core::Rng rng(seed, core::Stream::test);
  std::string text = "The ";
  for (std::size_t i = 0; i < words; ++i) text += parts[rng.below(i, parts.size())];
  return text;
}

using Ids = std::vector<std::vector<std::int32_t>>;

Ids read_back(const std::string& prefix) {
  const formats::TokenFile file(prefix);
  Ids documents;
  for (std::int64_t d = 0; d < file.documents(); ++d) {
    EXPECT_EQ(file.first_sequence(d), d);  // one sequence a document, as Megatron's readers want it
    documents.emplace_back(static_cast<std::size_t>(file.length(d)));
    file.read(d, 0, documents.back());
  }
  return documents;
}

std::string bytes_of(const std::string& prefix) {
  return core::read_file(prefix + ".bin", 1 << 30) + core::read_file(prefix + ".idx", 1 << 30);
}

class Pack : public ::testing::Test {
 protected:
  PackReport pack(PackOptions options, int threads = 2) {
    core::Team team(threads);
    if (options.output.empty()) options.output = folder_ / "out";
    return data::pack(tokenizer_, options, team);
  }
  std::string write(const std::string& name, std::string_view text) {
    core::write_file_atomic(folder_ / name, text);
    return folder_ / name;
  }
  std::vector<std::int32_t> ids(std::string_view text, bool eos = true) {
    auto out = tokenizer_.encode(text);
    if (eos) out.push_back(tokenizer_.eos_id());
    return out;
  }
  TempFolder folder_;
  text::Tokenizer tokenizer_ = small_tokenizer();
};

TEST_F(Pack, AFileIsOneDocument) {
  const std::string text = some_text(20000, 1);
  const PackReport r = pack({.inputs = {write("a.txt", text)}, .chunk_bytes = 1000});
  EXPECT_EQ(read_back(folder_ / "out"), (Ids{ids(text)}));
  EXPECT_EQ(r.documents, 1);
  EXPECT_EQ(r.tokens, static_cast<std::int64_t>(ids(text).size()));
  EXPECT_EQ(r.text_bytes, text.size());
  EXPECT_FALSE(core::exists(folder_ / "out.bin.partial"));
  EXPECT_FALSE(core::exists(folder_ / "out.pack.json"));
  pack({.inputs = {folder_ / "a.txt"}, .append_eos = false});  // over the older output
  EXPECT_EQ(read_back(folder_ / "out"), (Ids{ids(text, false)}));
}

TEST_F(Pack, KeepsTheOrderOfSeveralInputs) {
  std::string lines;
  Ids expected{ids("first\nfile\n")};
  for (int i = 0; i < 500; ++i) {
    const std::string text = i % 7 == 3 ? "" : some_text(static_cast<std::size_t>(i % 50), static_cast<std::uint64_t>(i));
    lines += fmt::format("{{\"body\": \"{}\", \"n\": {}}}\n", i % 7 == 3 ? "" : fmt::format("the {} moth", i), i);
    if (i % 7 != 3) expected.push_back(ids(fmt::format("the {} moth", i)));
  }
  expected.push_back(ids("a\n"));
  expected.push_back(ids("b"));
  std::string zst(ZSTD_compressBound(lines.size()), 0);
  zst.resize(ZSTD_compress(zst.data(), zst.size(), lines.data(), lines.size(), 1));
  const PackOptions options{.inputs = {write("1.txt", "first\nfile\n"), write("2.jsonl.zst", zst), write("3.txt", "a\n\nb")},
                            .field = "body",
                            .split_documents = "blank-line",
                            .chunk_bytes = 300};
  const PackReport r = pack(options);
  EXPECT_EQ(read_back(folder_ / "out"), expected);
  EXPECT_EQ(r.empty_documents, 71);
  // The same bytes with any number of threads and any size of chunks.
  const std::string bytes = bytes_of(folder_ / "out");
  for (const int threads : {1, 5}) {
    PackOptions other = options;
    other.output = folder_ / "other";
    other.chunk_bytes = threads == 1 ? 50 : 1 << 20;
    pack(other, threads);
    EXPECT_EQ(bytes_of(folder_ / "other"), bytes) << threads;
  }
}

TEST_F(Pack, TextOfSpecialTokensStaysText) {
  pack({.inputs = {write("a.txt", "x<|end|>y")}});
  EXPECT_EQ(read_back(folder_ / "out"), (Ids{ids("x<|end|>y")}));
  EXPECT_EQ(read_back(folder_ / "out")[0].size(), 10u);
}

// Kills a pack at its n-th system call, for every n, and lets another go on.
TEST_F(Pack, GoesOnAfterAKillAtAnyMoment) {
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += fmt::format("{{\"text\": \"the {} moth\"}}\n", i);
  // Hundreds of fsyncs: on a disk they would take a minute.
  if (std::filesystem::exists("/dev/shm")) ::setenv("TMPDIR", "/dev/shm", 1);
  const TempFolder folder;
  ::unsetenv("TMPDIR");
  PackOptions options{.inputs = {write("1.txt", some_text(1000, 1)), write("2.jsonl", lines)},
                      .output = folder / "whole",
                      .seconds_between_saves = 0,
                      .chunk_bytes = 100};
  pack(options, 1);
  const std::string bytes = bytes_of(folder / "whole");
  options.output = folder / "out";
  int resumed = 0;
  bool died = true;
  for (int n = 1; died; ++n) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      core::set_fault(fmt::format("any:{}:kill", n));
      try {
        pack(options, 1);
      } catch (...) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    died = WIFSIGNALED(status);
    ASSERT_TRUE(died ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0) << n;
    // Without an index there is no output; with one it is whole.
    if (core::exists(options.output + ".idx")) {
      ASSERT_EQ(bytes_of(options.output), bytes) << n;
    }
    const PackReport r = pack(options, 1);
    resumed += r.resumed;
    ASSERT_EQ(bytes_of(options.output), bytes) << n;
    for (const char* name : {".bin", ".idx"}) core::sys::remove_tree(options.output + name);
  }
  EXPECT_GT(resumed, 10);
}

TEST_F(Pack, BeginsAnewWhenTheInputChanged) {
  PackOptions options{.inputs = {write("a.txt", some_text(3000, 1))}, .seconds_between_saves = 0, .chunk_bytes = 100};
  core::set_fault("write:30:eio");
  expect_error(Exit::io, {"cannot write"}, [&] { pack(options, 1); });
  core::set_fault("");
  EXPECT_TRUE(core::exists(folder_ / "out.pack.json"));
  EXPECT_FALSE(core::exists(folder_ / "out.idx"));
  const std::string text = some_text(2000, 2);
  write("a.txt", text);
  EXPECT_FALSE(pack(options, 1).resumed);
  EXPECT_EQ(read_back(folder_ / "out"), (Ids{ids(text)}));
}

TEST_F(Pack, BadInputsEndWithOneClearError) {
  const std::string good = write("good.txt", "text");
  expect_error(Exit::bad_input, {"is empty", "empty.txt"}, [&] { pack({.inputs = {good, write("empty.txt", "")}}); });
  expect_error(Exit::io, {"missing.txt"}, [&] { pack({.inputs = {good, folder_ / "missing.txt"}}); });
  expect_error(Exit::io, {folder_.path()}, [&] { pack({.inputs = {folder_.path() + "/"}, .format = "text"}); });
  expect_error(Exit::usage, {"--format", "a.pdf"}, [&] { pack({.inputs = {write("a.pdf", "x")}}); });
  expect_error(Exit::usage, {"'xml'"}, [&] { pack({.inputs = {good}, .format = "xml"}); });
  expect_error(Exit::usage, {"--split-documents"}, [&] { pack({.inputs = {good}, .split_documents = ""}); });
  expect_error(Exit::usage, {"--in"}, [&] { pack({}); });
  expect_error(Exit::usage, {"--out"}, [&] { pack({.inputs = {good}, .output = folder_ / ""}); });
  expect_error(Exit::bad_input, {"binary.txt", "zero byte"}, [&] { pack({.inputs = {write("binary.txt", std::string("a\0b", 3))}}); });
  expect_error(Exit::bad_input, {"no text"}, [&] { pack({.inputs = {write("a.jsonl", "{\"text\": \"\"}\n")}}); });
  expect_error(Exit::bad_input, {"no text"}, [&] { pack({.inputs = {write("b.jsonl", "\n\n")}}); });
  expect_error(Exit::bad_input, {"c.jsonl line 2"}, [&] { pack({.inputs = {write("c.jsonl", "{\"text\": \"a\"}\noops\n")}}); });
  for (const char* name : {"out.bin", "out.idx", "out.bin.partial", "out.lengths.partial"})
    EXPECT_FALSE(core::exists(folder_ / name)) << name;
  EXPECT_EQ(pack({.inputs = {folder_ / "c.jsonl"}, .skip_bad_lines = true}).bad_lines, 1);
  text::Vocabulary without = small_tokenizer().vocabulary();
  without.eos.clear();
  tokenizer_ = text::Tokenizer(std::move(without));
  expect_error(Exit::usage, {"--no-eos"}, [&] { pack({.inputs = {good}}); });
}

TEST_F(Pack, TwoPacksDoNotShareAnOutput) {
  PackOptions options{.inputs = {write("a.txt", some_text(100, 1))}, .output = folder_ / "out"};
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {  // holds the lock until it is killed
    const int fd = core::sys::open_for_write(options.output + ".bin.partial", true, false);
    ::flock(fd, LOCK_EX);
    core::sys::write_all(ready[1], "x", 1, "pipe");
    for (;;) ::pause();
  }
  char c;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  expect_error(Exit::usage, {"another pack"}, [&] { pack(options); });
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  pack(options);
}

// From text to what the model is trained on.
TEST_F(Pack, ServesTheStream) {
  const std::string text = some_text(2000, 5);
  pack({.inputs = {write("a.txt", text)}, .split_documents = "blank-line"});
  const std::vector<std::string> paths{folder_ / "out.bin"};
  Stream stream(paths, {}, {.seq_len = 32, .vocab_size = tokenizer_.vocab_size(), .eos_id = tokenizer_.eos_id()});
  std::vector<std::int32_t> inputs(32 * 8), targets(inputs.size());
  stream.fill(0, inputs, targets);
  for (std::size_t i = 0; i < 32; ++i) EXPECT_NO_THROW(tokenizer_.decode(std::span(inputs).subspan(i, 1)));
}

}  // namespace
}  // namespace finback::data
