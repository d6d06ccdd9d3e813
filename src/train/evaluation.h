// The held-out loss: every token of a file scored once, in windows no longer than those of training.
#pragma once

#include "data/stream.h"
#include "text/tokenizer.h"
#include "train/trainer.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace finback::train {

struct Evaluation {
  double nats = 0;  // summed over the tokens
  std::int64_t tokens = 0;
  std::int64_t bytes = 0, characters = 0;  // of the text they stand for; special tokens stand for none
  double mtp_nats = 0;                     // of the first MTP module
  std::int64_t mtp_tokens = 0, mtp_accepted = 0;

  double nats_per_token() const;
  double nats_per_char() const;
  double bits_per_byte() const;
  double mtp_loss() const;
  double mtp_acceptance() const;  // share of tokens where the module's choice is the main model's
};

class Evaluator {
 public:
  // most_tokens: 0 for the whole file. Throws Error(bad_input), Error(io).
  Evaluator(const std::string& path, std::int64_t most_tokens, std::int64_t seq_len, std::int64_t sequences_at_once,
            const model::ModelConfig& config, const text::Tokenizer& tokenizer);

  // nullopt when `stop` (asked between batches, of one process) said so. Over ranks all call it, and those of each pipeline score a share.
  std::optional<Evaluation> run(Trainer& trainer, const std::function<bool()>& stop, parallel::Member* member = nullptr);
  std::int64_t tokens() const { return windows_.tokens(); }

 private:
  const model::ModelConfig config_;
  const std::int64_t seq_len_, sequences_;
  data::Windows windows_;
  std::int64_t count_;                            // of windows to score
  std::vector<std::int32_t> bytes_, characters_;  // of each token id
  std::vector<std::int32_t> inputs_, targets_;
};

// Characters of UTF-8 that begin in `text`.
std::int64_t characters_in(std::string_view text);

}  // namespace finback::train
