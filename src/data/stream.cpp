#include "data/stream.h"

#include "core/error.h"
#include "core/rng.h"
#include "data/synthetic.h"
#include "formats/hash.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace finback::data {
namespace {

using core::Error;
using core::Exit;

void check_options(const StreamOptions& o) {
  const auto refuse = [](std::string_view what, std::string_view field, std::string_view remedy) {
    throw Error(Exit::usage, what, field, remedy);
  };
  if (o.seq_len < 1 || o.seq_len > std::int64_t{1} << 30)
    refuse(fmt::format("sequences of {} tokens", o.seq_len), "data.seq_len", "use 1 to 2^30");
  if (o.eos_id < 0 || o.eos_id >= o.vocab_size)
    refuse(fmt::format("eos is token {} of a vocabulary of {}", o.eos_id, o.vocab_size), "eos_token_id", "use the model's own tokenizer");
  if (!(o.fim_rate >= 0 && o.fim_rate <= 1)) refuse(fmt::format("{} is not a share", o.fim_rate), "data.fim_rate", "use 0 to 1");
  if (!(o.token_split_rate >= 0 && o.token_split_rate <= 1))
    refuse(fmt::format("{} is not a share", o.token_split_rate), "data.token_split_rate", "use 0 to 1");
  if (o.fim_rate > 0 && !o.fim.complete())
    refuse("the tokenizer has no tokens for fill-in-the-middle", "data.fim_rate",
           "set it to 0, or use a tokenizer with fim_begin, fim_hole and fim_end");
}

}  // namespace

Stream::Stream(std::span<const std::string> paths, std::span<const double> weights, StreamOptions options) : options_(std::move(options)) {
  check_options(options_);
  if (paths.empty()) throw Error(Exit::usage, "no training data", "data.train", "name at least one token file");
  if (!weights.empty() && weights.size() != paths.size())
    throw Error(Exit::usage, fmt::format("{} weights for {} files", weights.size(), paths.size()), "data.weights",
                "give one for each file of data.train");

  if (std::find(paths.begin(), paths.end(), kSynthetic) != paths.end()) {
    if (paths.size() > 1 || options_.fim_rate > 0 || options_.token_split_rate > 0)
      throw Error(Exit::usage, "synthetic tokens beside files, or rearranged", "data.train",
                  "name them alone, with data.fim_rate and data.token_split_rate 0");
    fingerprint_ = kSynthetic;
    return;
  }
  sources_.reserve(paths.size());
  for (std::size_t s = 0; s < paths.size(); ++s) {
    const double weight = weights.empty() ? 1 : weights[s];
    if (!(weight > 0 && std::isfinite(weight)))
      throw Error(Exit::usage, fmt::format("weight {} of {}", weight, paths[s]), "data.weights", "give positive numbers");
    sources_.emplace_back(paths[s], options_, core::Rng(options_.seed, core::Stream::mixture).bits(s));
    share_.push_back(weights.empty() ? static_cast<double>(sources_[s].file().tokens()) : weight);
  }
  double sum = 0;
  for (const double w : share_) sum += w;
  for (double& w : share_) w /= sum;
  heaviest_ = static_cast<std::size_t>(std::max_element(share_.begin(), share_.end()) - share_.begin());
  block_ = paths.size() == 1 ? 1 : static_cast<std::int64_t>(std::bit_ceil(std::max<std::size_t>(1024, 2 * paths.size() * paths.size())));

  formats::Xxh3 hash;
  for (const Source& s : sources_) {
    const std::string f = data::fingerprint(s.file());
    hash.update(f.data(), f.size());
  }
  fingerprint_ = hash.digest128();
}

// Positions are dealt in blocks. Of the first b blocks source s has floor(b · block · share) sequences, the heaviest source
// takes what that leaves (its part of each block is positive, for block ≥ 2 sources²); within a block the sources are shuffled.
Stream::Draw Stream::draw(std::int64_t position) const {
  if (sources_.size() == 1) return {0, position};
  const std::int64_t b = position / block_;
  const Permutation order(static_cast<std::uint64_t>(block_),
                          core::Rng(options_.seed, core::Stream::mixture, 1).bits(static_cast<std::uint64_t>(b)));
  auto place = static_cast<std::int64_t>(order(static_cast<std::uint64_t>(position % block_)));
  const auto taken = [&](std::size_t s, std::int64_t blocks) {
    return static_cast<std::int64_t>(std::floor(static_cast<double>(blocks * block_) * share_[s]));
  };
  std::int64_t taken_by_others = 0;
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    if (s == heaviest_) continue;
    const std::int64_t before = taken(s, b), here = taken(s, b + 1) - before;
    if (place < here) return {s, before + place};
    place -= here;
    taken_by_others += before;
  }
  return {heaviest_, b * block_ - taken_by_others + place};
}

void Stream::fill(std::int64_t position, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
  const auto seq_len = static_cast<std::size_t>(options_.seq_len);
  FB_CHECK(position >= 0 && inputs.size() == targets.size() && inputs.size() % seq_len == 0, "{} {} {}", position, inputs.size(),
           targets.size());
  for (std::size_t i = 0; i < inputs.size(); i += seq_len, ++position) {
    if (sources_.empty()) {
      fill_synthetic(options_.seed, options_.vocab_size, position, inputs.subspan(i, seq_len), targets.subspan(i, seq_len));
      continue;
    }
    const Draw d = draw(position);
    sources_[d.source].fill(d.number, inputs.subspan(i, seq_len), targets.subspan(i, seq_len));
  }
}

std::string fingerprint(const formats::TokenFile& file) {
  formats::Xxh3 hash;
  const auto take = [&](std::int64_t n) { hash.update(&n, sizeof n); };
  take(core::size_of(file.dtype()));
  take(file.documents());
  take(file.sequences());
  for (std::int64_t d = 0; d < file.documents(); ++d) take(file.first_sequence(d));
  for (std::int64_t s = 0; s < file.sequences(); ++s) take(file.length(s));
  // All of a small file's tokens, samples of a large one's.
  constexpr std::uint64_t kSamples = 64, kBytes = 1 << 14;
  const core::InputFile tokens(file.path());
  take(static_cast<std::int64_t>(tokens.size()));
  std::vector<char> sample(kBytes);
  for (std::uint64_t k = 0; k < kSamples; ++k) {
    const std::uint64_t begin = tokens.size() <= kSamples * kBytes ? std::min(k * kBytes, tokens.size()) : k * (tokens.size() / kSamples);
    const std::uint64_t n = std::min(kBytes, tokens.size() - begin);
    tokens.read(sample.data(), n, begin);
    hash.update(sample.data(), n);
  }
  return hash.digest128();
}

Windows::Windows(const std::string& path, std::int64_t seq_len, std::int64_t vocab_size, std::int32_t eos_id)
    : file_(path), seq_len_(seq_len), vocab_size_(vocab_size), eos_id_(eos_id) {
  FB_CHECK(seq_len >= 1, "{}", seq_len);
  if (file_.tokens() == 0) throw Error(Exit::bad_input, "no tokens in the file", file_.path(), "pack text that is not empty");
  std::int64_t begin = 0;
  for (std::int64_t s = 0; s < file_.sequences(); ++s) {
    sequence_begin_.push_back(begin);
    begin += file_.length(s);
  }
}

void Windows::fill(std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const {
  const auto seq_len = static_cast<std::size_t>(seq_len_);
  FB_CHECK(first >= 0 && inputs.size() == targets.size() && inputs.size() % seq_len == 0, "{} {} {}", first, inputs.size(), targets.size());
  const std::int64_t begin = first * seq_len_;  // of the first target, among all tokens
  const auto left = static_cast<std::size_t>(std::max<std::int64_t>(0, file_.tokens() - begin));
  std::fill(targets.begin(), targets.end(), -1);
  std::fill(inputs.begin(), inputs.end(), eos_id_);

  std::span<std::int32_t> out = targets.first(std::min(left, targets.size()));
  if (out.empty()) return;
  auto s = static_cast<std::int64_t>(std::upper_bound(sequence_begin_.begin(), sequence_begin_.end(), begin) - sequence_begin_.begin()) - 1;
  for (std::int64_t at = begin - sequence_begin_[static_cast<std::size_t>(s)]; !out.empty(); ++s, at = 0) {
    const std::size_t n = std::min(out.size(), static_cast<std::size_t>(file_.length(s) - at));
    file_.read(s, at, out.first(n));
    for (const std::int32_t id : out.first(n))
      if (id < 0 || id >= vocab_size_)
        throw Error(Exit::bad_input, fmt::format("token id {} in sequence {}, the vocabulary has {}", id, s, vocab_size_), file_.path(),
                    "pack the text with the model's own tokenizer");
    out = out.subspan(n);
  }
  // An input is the target before it. That of a window's first target ended the window before.
  for (std::size_t i = 1; i < inputs.size(); ++i)
    if (targets[i] >= 0) inputs[i] = targets[i - 1];
  if (begin > 0) {
    s = static_cast<std::int64_t>(std::upper_bound(sequence_begin_.begin(), sequence_begin_.end(), begin - 1) - sequence_begin_.begin()) -
        1;
    file_.read(s, begin - 1 - sequence_begin_[static_cast<std::size_t>(s)], inputs.first(1));
  }
}

}  // namespace finback::data
