// Training of byte pair encoding: count the pieces of the texts, then merge the most frequent pair again and again
// (Sennrich et al. 2016). The result depends on the texts' bytes alone: not on threads, nor on how they are spread over files.
#pragma once

#include "core/team.h"
#include "text/tokenizer.h"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace finback::text {

struct TrainOptions {
  std::int32_t vocab_size = 0;  // exactly this many ids, special tokens counted
  PreTokenizer pre_tokenizer = PreTokenizer::deepseek_v3();
  // In DeepSeek-V3's order: ids 0, 1, 2; then the 256 bytes; then the merges; then the last ones.
  std::vector<std::string> first_special = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"};
  std::vector<std::string> last_special = {"<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜User｜>", "<｜Assistant｜>"};
};

// Of equally frequent pairs the one with the lower left id, then the lower right id, merges first, as in the `tokenizers`
// package. Where the text has fewer pairs than vocab_size asks for, `<｜place▁holder▁no▁k｜>` tokens fill the ids up, with a
// warning. Throws Error(usage) if vocab_size cannot hold bytes and special tokens, Error(bad_input) for texts without a byte.
Tokenizer train_bpe(std::span<const std::string_view> texts, const TrainOptions& options, core::Team& team);
// The files' whole contents, each one text. Throws Error(io) too.
Tokenizer train_bpe_on_files(std::span<const std::string> files, const TrainOptions& options, core::Team& team);

}  // namespace finback::text
