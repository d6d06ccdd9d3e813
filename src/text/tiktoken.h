// tiktoken.model folders, as Moonlight and Kimi-K2 have them: lines of "base64-of-bytes id", ids 0 … n-1, which are also the
// ranks of the merges; then 258 special tokens, n … n+257, which tokenizer_config.json's added_tokens_decoder names, or
// <|reserved_token_ID|> where it does not (tokenization_kimi.py in these folders).
#pragma once

#include "text/tokenizer.h"

namespace finback::text {

// Throws Error(bad_input) with file and line, as the readers of tokenizer_json.h do.
Vocabulary read_tiktoken(const std::string& path);
void write_tiktoken(const Vocabulary& vocabulary, const std::string& folder);

// False if it is not base64 of at least one byte.
bool from_base64(std::string_view text, std::string& bytes);

}  // namespace finback::text
