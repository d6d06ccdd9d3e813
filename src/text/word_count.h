// How often each piece occurs in some texts: the first half of training, on all cores.
#pragma once

#include "core/team.h"
#include "text/pretokenizer.h"

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace finback::text {

struct CountedWord {
  std::string_view bytes;  // into the texts
  std::int64_t count;
};

// The pieces in an order that depends on the number of threads; the counts do not.
std::vector<CountedWord> count_words(std::span<const std::string_view> texts, const PreTokenizer& pre_tokenizer, core::Team& team);

// Texts cut into parts of about `target` bytes, only where the pieces of the parts are the pieces of the whole: behind a
// line feed that is followed by no white space, where all supported pre-tokenizers end a piece.
std::vector<std::string_view> cut_between_pieces(std::span<const std::string_view> texts, std::size_t target);

}  // namespace finback::text
