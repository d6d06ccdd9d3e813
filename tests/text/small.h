// Vocabularies for tests, made by rule.
#pragma once

#include "text/tokenizer.h"

#include <string_view>

namespace finback::text {

// V3's layout: three special tokens, the 256 bytes, a few merges of "the cat", CJK and runs, then fim markers and roles.
Vocabulary small_vocabulary();
inline Tokenizer small_tokenizer() { return Tokenizer(small_vocabulary()); }

// DeepSeek-V3 from its published vocabulary, lines of "base64-of-byte-level-text id" with ids 0 … 127999: merges are, in id
// order, the one pair of lower ids that each token splits into.
Tokenizer v3_from_vocabulary(std::string_view file);

}  // namespace finback::text
