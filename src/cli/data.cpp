// finback data pack
#include "cli/command.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"
#include "core/machine.h"
#include "data/pack.h"

#include <memory>

namespace finback::cli {
namespace {

struct Options {
  data::PackOptions pack;
  std::string tokenizer;
  int threads = 0;
  bool no_eos = false;
};

void pack(Options& o) {
  const text::Tokenizer tokenizer = text::Tokenizer::load(o.tokenizer);
  o.pack.append_eos = !o.no_eos;
  core::Team team(o.threads > 0 ? o.threads : core::this_machine().cores);
  core::Progress progress;
  const double start = core::seconds_now();
  const data::PackReport r = data::pack(tokenizer, o.pack, team, &progress);
  const double seconds = core::seconds_now() - start;
  progress.finish();
  if (r.resumed) core::log_line("went on from where an earlier pack had stopped");
  if (r.empty_documents > 0) core::inform("{} empty documents left out", r.empty_documents);
  if (r.bad_lines > 0) core::warn("{} lines could not be read and were left out", r.bad_lines);
  core::inform("{}.bin, {}.idx: {} tokens in {} documents, {:.2f} bytes of text a token, {:.1f} s", o.pack.output, o.pack.output, r.tokens,
               r.documents, static_cast<double>(r.text_bytes) / static_cast<double>(r.tokens), seconds);
}

}  // namespace

void add_data(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "Training data");
  data->require_subcommand(1);

  auto o = std::make_shared<Options>();
  CLI::App* c = data->add_subcommand("pack", "Turn text into the token files that training reads (Megatron's .bin and .idx)");
  c->add_option("--tokenizer", o->tokenizer, "tokenizer.json, or a folder that holds one")->required();
  c->add_option("--in", o->pack.inputs, "text: .txt, .jsonl, or either with .zst")->required();
  c->add_option("--out", o->pack.output, "PREFIX: writes PREFIX.bin and PREFIX.idx")->required();
  c->add_option("--field", o->pack.field, "the field of a JSON line that holds the text")->capture_default_str();
  c->add_option("--format", o->pack.format, "auto (by the name), text or jsonl")->capture_default_str();
  c->add_option("--split-documents", o->pack.split_documents,
                "what divides a .txt into documents: none, blank-line, line, or a text of its own")
      ->capture_default_str();
  c->add_flag("--no-eos", o->no_eos, "do not end each document with the tokenizer's end-of-text token");
  c->add_flag("--skip-bad-lines", o->pack.skip_bad_lines, "leave out JSON lines that cannot be read");
  c->add_option("--threads", o->threads, "0: all cores")->check(CLI::Range(0, 4096))->capture_default_str();
  c->footer(
      "Example: finback data pack --tokenizer my-tokenizer --in web.jsonl.zst books.txt --out data/train\n"
      "A pack that was interrupted goes on where it stopped when the same command is given again.");
  c->callback([o] { pack(*o); });
}

}  // namespace finback::cli
