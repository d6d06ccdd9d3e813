// finback tokenizer train | encode | decode
#include "text/tokenizer.h"
#include "cli/command.h"
#include "cli/output.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "core/team.h"
#include "text/train.h"

#include <boost/json/array.hpp>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <thread>

namespace finback::cli {
namespace {

using core::Error;
using core::Exit;

constexpr std::uint64_t kMaxText = std::uint64_t{4} << 30;

struct Options {
  std::vector<std::string> files;
  std::string tokenizer, in, out;
  std::int32_t vocab_size = 0;
  int threads = 0;  // 0: all cores
  int bench = 0;
  bool json = false, allow_special = false;
};

int thread_count(int asked) { return asked > 0 ? asked : std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

std::string read_input(const std::string& path) {
  if (path != "-") return core::read_file(path, kMaxText);
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

void train(const Options& o) {
  core::Team team(thread_count(o.threads));
  const double start = core::seconds_now();
  const text::Tokenizer tokenizer = text::train_bpe_on_files(o.files, {.vocab_size = o.vocab_size}, team);
  tokenizer.save(o.out);
  core::inform("{} tokens, {} merges, {:.1f} s, in {}", tokenizer.vocab_size(), tokenizer.vocabulary().merges.size(),
               core::seconds_now() - start, o.out);
}

// Encodes each line of the text as a document, as often as asked; the best time is reported, since others share the machine.
void bench(const text::Tokenizer& tokenizer, const std::string& text, const Options& o) {
  core::Team team(thread_count(o.threads));
  std::vector<std::string_view> documents;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t newline = std::min(text.find('\n', at), text.size() - 1);
    documents.emplace_back(text.data() + at, newline + 1 - at);
    at = newline + 1;
  }
  double best = 1e300;
  std::size_t tokens = 0;
  for (int i = 0; i < o.bench; ++i) {
    const double start = core::seconds_now();
    const auto all = tokenizer.encode_all(team, documents, o.allow_special);
    best = std::min(best, core::seconds_now() - start);
    tokens = 0;
    for (const auto& ids : all) tokens += ids.size();
  }
  const double rate = static_cast<double>(text.size()) / best / 1e6;
  if (o.json) write_output(fmt::format("{{\"mb_per_s\": {:.3f}, \"tokens\": {}, \"threads\": {}}}\n", rate, tokens, team.threads()));
  else write_output(fmt::format("{:.1f} MB/s, {} tokens, {} threads\n", rate, tokens, team.threads()));
}

void encode(const Options& o) {
  const text::Tokenizer tokenizer = text::Tokenizer::load(o.tokenizer);
  const std::string text = read_input(o.in);
  if (o.bench > 0) return bench(tokenizer, text, o);
  const std::vector<std::int32_t> ids = tokenizer.encode(text, o.allow_special);
  if (o.json) write_output(fmt::format("[{}]\n", fmt::join(ids, ",")));
  else write_output(fmt::format("{}\n", fmt::join(ids, " ")));
}

void decode(const Options& o) {
  const text::Tokenizer tokenizer = text::Tokenizer::load(o.tokenizer);
  const std::string where = o.in == "-" ? "standard input" : o.in;
  const boost::json::value value = core::parse_json(read_input(o.in), where, {.max_bytes = std::uint64_t{1} << 30});
  const auto fail = [&](const std::string& what) { return Error(Exit::bad_input, what, where, "give a JSON array of token ids"); };
  const auto* list = value.if_array();
  if (list == nullptr) throw fail("not a JSON array");
  std::vector<std::int32_t> ids;
  ids.reserve(list->size());
  for (const auto& id : *list) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= tokenizer.vocab_size())
      throw fail(fmt::format("element {} is no token id in 0 … {}", ids.size(), tokenizer.vocab_size() - 1));
    ids.push_back(static_cast<std::int32_t>(id.get_int64()));
  }
  write_output(tokenizer.decode(ids));
}

}  // namespace

void add_tokenizer(CLI::App& app) {
  CLI::App& tokenizer = *app.add_subcommand("tokenizer", "Train a tokenizer; turn text into token ids and back");
  tokenizer.require_subcommand(1);
  tokenizer.footer("Example:\n  finback tokenizer train --in input.txt --vocab-size 4096 --out runs/tokenizer");
  const auto o = std::make_shared<Options>();

  CLI::App& t = *tokenizer.add_subcommand("train", "Byte-level BPE with DeepSeek-V3's pre-tokenizer, from text files");
  t.add_option("--in", o->files, "text files")->required()->type_name("FILE");
  t.add_option("--vocab-size", o->vocab_size, "ids, special tokens counted")->required()->type_name("N");
  t.add_option("--out", o->out, "folder for tokenizer.json and tokenizer_config.json")->required()->type_name("DIR");
  t.add_option("--threads", o->threads, "default: all cores")->check(CLI::PositiveNumber)->type_name("N");
  t.footer("Example:\n  finback tokenizer train --in a.txt b.txt --vocab-size 8192 --out runs/tokenizer");
  t.callback([o] { train(*o); });

  CLI::App& e = *tokenizer.add_subcommand("encode", "The token ids of a text");
  e.add_option("--tokenizer", o->tokenizer, "tokenizer.json, or a folder with it or tiktoken.model")->required()->type_name("FILE");
  e.add_option("--in", o->in, "text file; - for standard input")->required()->type_name("TEXT");
  e.add_flag("--json", o->json, "one JSON array");
  e.add_flag("--allow-special", o->allow_special, "texts of special tokens become these tokens");
  e.add_option("--bench", o->bench, "encode the lines N times, print the best speed")->check(CLI::PositiveNumber)->type_name("N");
  e.add_option("--threads", o->threads, "of --bench; default: all cores")->check(CLI::PositiveNumber)->type_name("N");
  e.footer("Example:\n  echo 'Hello world' | finback tokenizer encode --tokenizer runs/tokenizer --in - --json");
  e.callback([o] { encode(*o); });

  CLI::App& d = *tokenizer.add_subcommand("decode", "The text of token ids");
  d.add_option("--tokenizer", o->tokenizer, "tokenizer.json, or a folder with it or tiktoken.model")->required()->type_name("FILE");
  d.add_option("--in", o->in, "file with a JSON array of ids; - for standard input")->required()->type_name("IDS.json");
  d.add_flag("--json", o->json, "taken and ignored: ids are always read as JSON");
  d.footer("Example:\n  echo '[19923, 2058]' | finback tokenizer decode --tokenizer DeepSeek-V3 --in -");
  d.callback([o] { decode(*o); });
}

}  // namespace finback::cli
