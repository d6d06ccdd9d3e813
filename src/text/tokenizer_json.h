// Hugging Face tokenizer files: tokenizer.json (byte-level BPE) and tokenizer_config.json. Readers throw Error(bad_input)
// that names file, field and remedy; what they do not support they refuse by name. Memory is bounded by the file's size,
// and that by 64 MiB.
#pragma once

#include "text/tokenizer.h"

namespace finback::text {

Vocabulary read_tokenizer_json(const std::string& path);  // reads tokenizer_config.json beside it too
// The text of a tokenizer.json; bos, eos and pad as V3 or Kimi name them.
Vocabulary parse_tokenizer_json(std::string_view text, std::string_view where);
void write_tokenizer_json(const Vocabulary& vocabulary, const std::string& folder);

// From tokenizer_config.json: bos, eos, pad and add_bos. Names that are no special token are an error.
void read_tokenizer_config(const std::string& path, Vocabulary& vocabulary);
void write_tokenizer_config(const Vocabulary& vocabulary, const std::string& folder);

// Where a vocabulary has no configuration beside it: the usual names of bos, eos and pad, as far as it has them.
void use_known_names(Vocabulary& vocabulary);

}  // namespace finback::text
