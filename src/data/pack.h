// `finback data pack`: text files → PREFIX.bin and PREFIX.idx (formats/megatron.h), with all cores, in the order of the input.
//
// While it runs, the tokens grow in PREFIX.bin.partial and the documents' lengths in PREFIX.lengths.partial; PREFIX.pack.json says
// how far both are good and where in the input the next token comes from. A pack that was killed goes on from there.
#pragma once

#include "core/log.h"
#include "core/team.h"
#include "data/documents.h"
#include "text/tokenizer.h"

#include <cstdint>
#include <string>
#include <vector>

namespace finback::data {

struct PackOptions {
  std::vector<std::string> inputs;       // .txt, .jsonl, either with .zst; other names need `format`
  std::string output;                    // PREFIX
  std::string format = "auto";           // auto (by the name), text, jsonl
  std::string field = "text";            // of a JSON line
  std::string split_documents = "none";  // text: none, blank-line, line, or a text that stands between documents
  bool append_eos = true;                // after each document
  bool skip_bad_lines = false;           // leave out JSON lines that cannot be read, and count them
  double seconds_between_saves = 10;
  std::size_t chunk_bytes = 256 << 10;  // of text, what one thread encodes at a time
};

struct PackReport {
  std::int64_t documents = 0, tokens = 0, empty_documents = 0, bad_lines = 0;
  std::uint64_t text_bytes = 0;  // decompressed, of the whole input
  bool resumed = false;
};

// The formats of a name, or of options.format. Throws Error(usage) for a name that tells none.
DocumentFormat document_format(const std::string& path, const PackOptions& options);

// Output appears only when it is complete. The same input gives the same bytes, with any number of threads, interrupted or
// not. Throws Error(usage), Error(bad_input) naming file, line and remedy, Error(io).
PackReport pack(const text::Tokenizer& tokenizer, const PackOptions& options, core::Team& team, core::Progress* progress = nullptr);

}  // namespace finback::data
