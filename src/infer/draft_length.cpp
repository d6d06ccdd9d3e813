#include "infer/draft_length.h"

#include <algorithm>
#include <bit>

namespace finback::infer {
namespace {

constexpr std::int64_t kTrial = 8;    // steps that a length is tried at a time
constexpr std::int64_t kRound = 256;  // steps from one trial to the next
constexpr double kKeep = 0.97;        // of the past's weight, a step

}  // namespace

DraftLength::DraftLength(std::int64_t most) : most_(most), loads_(65) {
  for (Load& l : loads_) l.rates.resize(static_cast<std::size_t>(most + 1));
}

DraftLength::Load& DraftLength::load(std::int64_t answers) {
  return loads_[static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(answers)))];
}

std::int64_t DraftLength::choose(std::int64_t answers) {
  Load& l = load(answers);
  const std::int64_t lengths = most_ + 1, turn = l.turn++;
  // Each length once, the longest first, and one of them again every round.
  if (turn < kTrial * lengths) return most_ - turn / kTrial;
  if (turn % kRound < kTrial) return turn / kRound % lengths;
  std::int64_t best = 0;
  const auto speed = [&](std::int64_t n) {
    const Rate& r = l.rates[static_cast<std::size_t>(n)];
    return r.seconds > 0 ? r.tokens / r.seconds : 0;
  };
  for (std::int64_t n = 1; n < lengths; ++n)
    if (speed(n) > speed(best)) best = n;
  return best;
}

void DraftLength::observe(std::int64_t answers, std::int64_t length, std::int64_t tokens, double seconds) {
  Rate& r = load(answers).rates[static_cast<std::size_t>(length)];
  if (!r.seen) {  // the first step touches memory for the first time
    r.seen = true;
    return;
  }
  r.tokens = kKeep * r.tokens + static_cast<double>(tokens);
  r.seconds = kKeep * r.seconds + seconds;
}

}  // namespace finback::infer
