#include "train/evaluation.h"

#include <algorithm>
#include <numbers>

namespace finback::train {
namespace {

double ratio(double a, std::int64_t b) { return b > 0 ? a / static_cast<double>(b) : 0; }

}  // namespace

double Evaluation::nats_per_token() const { return ratio(nats, tokens); }
double Evaluation::nats_per_char() const { return ratio(nats, characters); }
double Evaluation::bits_per_byte() const { return ratio(nats / std::numbers::ln2, bytes); }
double Evaluation::mtp_loss() const { return ratio(mtp_nats, mtp_tokens); }
double Evaluation::mtp_acceptance() const { return ratio(static_cast<double>(mtp_accepted), mtp_tokens); }

std::int64_t characters_in(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

Evaluator::Evaluator(const std::string& path, std::int64_t most_tokens, std::int64_t seq_len, std::int64_t sequences_at_once,
                     const model::ModelConfig& config, const text::Tokenizer& tokenizer)
    : config_(config),
      seq_len_(seq_len),
      sequences_(sequences_at_once),
      windows_(path, seq_len, config.vocab_size, static_cast<std::int32_t>(config.eos_token_id)),
      count_(windows_.count()) {
  if (most_tokens > 0) count_ = std::min(count_, (most_tokens + seq_len - 1) / seq_len);
  const auto ids = static_cast<std::size_t>(config.vocab_size);
  bytes_.assign(ids, 0);
  characters_.assign(ids, 0);
  for (std::int32_t id = 0; id < std::min(tokenizer.vocab_size(), static_cast<std::int32_t>(ids)); ++id) {
    if (tokenizer.is_special(id)) continue;
    const std::string_view text = tokenizer.token_bytes(id);
    bytes_[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(text.size());
    characters_[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(characters_in(text));
  }
  inputs_.resize(static_cast<std::size_t>(sequences_ * seq_len_));
  targets_.resize(inputs_.size());
}

std::optional<Evaluation> Evaluator::run(Trainer& trainer, const std::function<bool()>& stop, parallel::Member* member) {
  model::LossSums sums;
  sums.reset(config_);
  Evaluation e;
  // Windows are dealt to the ranks of dp, which all take as many turns: the exchange of experts is theirs together.
  const std::int64_t dp_ranks = member ? member->mesh().layout().dp : 1, dp = member ? member->at().dp : 0;
  const bool counts_text = !member || member->at().pp == 0;
  for (std::int64_t turn = 0; turn * dp_ranks * sequences_ < count_; ++turn) {
    if (!member && stop()) return std::nullopt;
    std::int64_t first = (turn * dp_ranks + dp) * sequences_, sequences = std::min(sequences_, count_ - first);
    const bool spare = sequences <= 0;  // nothing is left for this rank
    if (spare) first = 0, sequences = 1;
    const auto tokens = static_cast<std::size_t>(sequences * seq_len_);
    const std::span inputs(inputs_.data(), tokens), targets(targets_.data(), tokens);
    windows_.fill(first, inputs, targets);
    if (spare) std::fill(targets.begin(), targets.end(), -1);
    trainer.evaluate({sequences, seq_len_, inputs, targets}, /*with_mtp=*/config_.num_nextn_predict_layers > 0, sums);
    for (const std::int32_t id : targets) {
      if (id < 0 || !counts_text) continue;
      e.bytes += bytes_[static_cast<std::size_t>(id)];
      e.characters += characters_[static_cast<std::size_t>(id)];
    }
  }
  if (member) {
    for (const std::span<double> x : sums.reals()) member->world().all_reduce(x);
    for (const std::span<std::int64_t> x : sums.counts()) member->world().all_reduce(x);
    std::int64_t text[] = {e.bytes, e.characters};
    member->world().all_reduce(text);
    e.bytes = text[0], e.characters = text[1];
  }
  e.nats = sums.main;
  e.tokens = sums.main_tokens;
  if (!sums.mtp.empty()) {
    e.mtp_nats = sums.mtp[0];
    e.mtp_tokens = sums.mtp_tokens[0];
    e.mtp_accepted = sums.mtp_accepted[0];
  }
  return e;
}

}  // namespace finback::train
