#include "data/source.h"

#include "core/error.h"
#include "core/rng.h"

#include <algorithm>
#include <limits>

namespace finback::data {
namespace {

using core::Error;
using core::Exit;
using core::Rng;
using core::Stream;

// A document of at least this many sequences begins at a random place of its first sequence in each epoch, so that its tokens
// are not always seen in the same windows. In a shorter one the additional cut would cost more than that gains.
constexpr std::int64_t kManySequences = 8;

constexpr std::int64_t kBlock = 1 << 16;  // tokens read at once when a whole document is looked through

// Random numbers at a place in a document, told apart by epoch; `k` < 4 tells apart several at one place.
std::uint64_t index_of(std::int64_t epoch, std::int64_t place, std::uint64_t k = 0) {
  return ((static_cast<std::uint64_t>(epoch) << 32 | static_cast<std::uint64_t>(place)) << 2) + k;
}

}  // namespace

Source::Source(const std::string& path, const StreamOptions& options, std::uint64_t seed) : file_(path), options_(options), seed_(seed) {
  constexpr std::int64_t limit = std::numeric_limits<std::uint32_t>::max();
  if (file_.documents() >= limit)
    throw Error(Exit::bad_input, fmt::format("{} documents, at most 2^32 - 2 are supported", file_.documents()), file_.path(),
                "divide the file into several sources");
  std::int64_t longest = 0;
  for (std::int64_t d = 0; d < file_.documents(); ++d) longest = std::max(longest, tokens_of(static_cast<std::uint32_t>(d)));
  if (longest == 0) throw Error(Exit::bad_input, "no tokens in the file", file_.path(), "pack text that is not empty");
  if (longest > limit)
    throw Error(Exit::bad_input, fmt::format("a document of {} tokens, at most 2^32 - 1 are supported", longest), file_.path(),
                "split it into several documents");
  const auto capacity = static_cast<std::size_t>(options_.seq_len + 1);
  stored_.reserve(options_.token_split_rate > 0 ? std::max(capacity, static_cast<std::size_t>(kBlock)) : capacity);
  content_.reserve(capacity);
  sequence_.reserve(capacity);
}

std::int64_t Source::tokens_of(std::uint32_t document) const {
  std::int64_t n = 0;
  for (std::int64_t s = file_.first_sequence(document); s < file_.first_sequence(std::int64_t{document} + 1); ++s) n += file_.length(s);
  return n;
}

void Source::read(std::uint32_t document, std::int64_t begin, std::span<std::int32_t> out) const {
  for (std::int64_t s = file_.first_sequence(document); !out.empty(); ++s) {
    const std::int64_t n = std::min(file_.length(s) - begin, static_cast<std::int64_t>(out.size()));
    if (n > 0) {
      file_.read(s, begin, out.first(static_cast<std::size_t>(n)));
      out = out.subspan(static_cast<std::size_t>(n));
    }
    begin = std::max<std::int64_t>(0, begin - file_.length(s));
  }
}

bool Source::is_split(std::int64_t epoch, std::uint32_t document, std::int64_t position, std::int32_t id) const {
  return options_.token_split_rate > 0 && options_.splits.contains(id) &&
         Rng(seed_, Stream::token_split, document).uniform(index_of(epoch, position)) < options_.token_split_rate;
}

void Source::find_splits(std::int64_t epoch, std::uint32_t document) {
  splits_.clear();
  if (options_.token_split_rate <= 0) return;
  const std::int64_t n = tokens_of(document);
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    stored_.resize(static_cast<std::size_t>(std::min(kBlock, n - begin)));
    read(document, begin, stored_);
    for (std::size_t i = 0; i < stored_.size(); ++i) {
      const std::int64_t position = begin + static_cast<std::int64_t>(i);
      if (is_split(epoch, document, position, stored_[i])) splits_.push_back(position);
    }
  }
}

// Appends the document's pieces and what length each will have in its sequence.
void Source::cut(std::int64_t epoch, std::uint32_t document, Epoch& out, std::vector<std::int32_t>& lengths) {
  find_splits(epoch, document);
  const std::int64_t capacity = options_.seq_len + 1, n = tokens_of(document);
  const Rng fim_rng(seed_, Stream::fim, document);
  auto split = splits_.begin();
  for (std::int64_t begin = 0; begin < n;) {
    const std::int64_t rest = n - begin + (splits_.end() - split);
    std::int64_t room = capacity;
    if (begin == 0 && rest >= kManySequences * capacity)
      room =
          2 +
          static_cast<std::int64_t>(
              Rng(seed_, Stream::data_order, document).below(static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(capacity - 1)));
    // Text that fits a sequence is never cut for the sake of the marks.
    const bool fits_plain_only = rest <= room && rest + kFimExtra > room;
    const bool fim =
        options_.fim_rate > 0 && !fits_plain_only && room >= kFimExtra + 2 && fim_rng.uniform(index_of(epoch, begin)) < options_.fim_rate;
    if (fim) room -= kFimExtra;

    // As many tokens as fit; a split one takes two places and is not divided between pieces. room ≥ 2: at least one fits.
    std::int64_t end = begin, length = 0;
    for (;;) {
      const std::int64_t run = std::min((split == splits_.end() ? n : *split) - end, room - length);
      end += run;
      length += run;
      if (split == splits_.end() || end < *split || length + 2 > room) break;
      ++end;
      length += 2;
      ++split;
    }
    out.pieces.push_back({document, static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end - begin), fim, end == n});
    lengths.push_back(static_cast<std::int32_t>(length + (fim ? kFimExtra : 0)));
    begin = end;
  }
}

const Source::Epoch& Source::epoch(std::int64_t number) {
  Epoch& e = recent_[static_cast<std::size_t>(number % 2)];
  if (e.number == number) return e;
  e.number = -1;
  e.pieces.clear();
  std::vector<std::int32_t> lengths;
  for (std::int64_t d = 0; d < file_.documents(); ++d) {
    cut(number, static_cast<std::uint32_t>(d), e, lengths);
    if (lengths.size() >= std::numeric_limits<std::uint32_t>::max())
      throw Error(Exit::bad_input, "more than 2^32 pieces of documents", file_.path(), "divide the file into several sources");
  }
  e.packing = pack_best_fit(lengths, static_cast<std::int32_t>(options_.seq_len + 1));
  e.number = number;
  return e;
}

std::int64_t Source::sequences_in_epoch(std::int64_t number) { return epoch(number).packing.sequences(); }

// Appends a piece, as it is trained on, to sequence_.
void Source::append(const Piece& piece, std::int64_t epoch) {
  stored_.resize(piece.length);
  read(piece.document, piece.begin, stored_);
  content_.clear();
  for (std::size_t i = 0; i < stored_.size(); ++i) {
    const std::int32_t id = stored_[i];
    const std::int64_t position = piece.begin + static_cast<std::int64_t>(i);
    if (id < 0 || id >= options_.vocab_size)
      throw Error(
          Exit::bad_input,
          fmt::format("token id {} at token {} of document {}, the vocabulary has {}", id, position, piece.document, options_.vocab_size),
          file_.path(), "pack the text with the model's own tokenizer");
    if (is_split(epoch, piece.document, position, id)) {
      content_.push_back(options_.splits.head(id));
      content_.push_back(options_.splits.tail(id));
    } else {
      content_.push_back(id);
    }
  }
  if (!piece.fim) {
    sequence_.insert(sequence_.end(), content_.begin(), content_.end());
    return;
  }
  if (piece.ends && content_.back() == options_.eos_id) content_.pop_back();
  const Rng rng(seed_, Stream::fim, piece.document);
  const auto cut_at = [&](std::uint64_t k) {
    return static_cast<std::size_t>(rng.below(index_of(epoch, piece.begin, k), content_.size() + 1));
  };
  const auto [a, b] = std::minmax({cut_at(1), cut_at(2)});
  append_fim(content_, a, b, options_.fim, options_.eos_id, sequence_);
}

void Source::fill(std::int64_t number, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
  FB_CHECK(number >= 0 && inputs.size() == static_cast<std::size_t>(options_.seq_len) && targets.size() == inputs.size(), "{} {} {}",
           number, inputs.size(), targets.size());
  while (number >= epoch_begin_.back())
    epoch_begin_.push_back(epoch_begin_.back() + sequences_in_epoch(static_cast<std::int64_t>(epoch_begin_.size()) - 1));
  const auto next = std::upper_bound(epoch_begin_.begin(), epoch_begin_.end(), number);
  const std::int64_t e = next - epoch_begin_.begin() - 1;
  const Epoch& current = epoch(e);

  // The key's index has its highest bit set: the draws of places in documents (cut) have not.
  const Permutation order(static_cast<std::uint64_t>(current.packing.sequences()),
                          Rng(seed_, Stream::data_order).bits(std::uint64_t{1} << 63 | static_cast<std::uint64_t>(e)));
  const auto pieces = current.packing.of(static_cast<std::int64_t>(order(static_cast<std::uint64_t>(number - *(next - 1)))));

  // Ends of cut documents first and beginnings last, so that a document breaks off where the sequence does.
  sequence_.clear();
  const auto place = [](const Piece& p) { return p.fim ? 1 : !p.ends ? 2 : p.begin > 0 ? 0 : 1; };
  for (int at = 0; at < 3; ++at)
    for (const std::uint32_t p : pieces)
      if (place(current.pieces[p]) == at) append(current.pieces[p], e);

  for (std::size_t i = 0; i < inputs.size(); ++i) {
    inputs[i] = i < sequence_.size() ? sequence_[i] : options_.eos_id;
    targets[i] = i + 1 < sequence_.size() ? sequence_[i + 1] : -1;
  }
}

}  // namespace finback::data
