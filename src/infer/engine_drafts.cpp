// The engine's guesses: after every step the MTP module follows on the rows whose latents are of an answer, and guesses what may come next.
#include "infer/engine.h"
#include "infer/sequence.h"

#include <algorithm>

namespace finback::infer {

using kernels::kPage;

// The module's latents of every position that the main model has, so that it can guess whenever it pays.
void Engine::follow() {
  clear_batch();
  guessing_.clear();
  for (const Owned& owned : running_) {
    Sequence& s = *owned;
    s.drafts.clear();
    if (s.advance == 0 || s.finish != Finish::none) continue;
    const std::int64_t first = s.cached - s.advance;
    segments_.push_back({std::ssize(ids_), s.advance, first, s.pages.data()});
    for (std::int64_t i = 0; i < s.advance; ++i) {
      ids_.push_back(s.tokens[static_cast<std::size_t>(first + i + 1)]);
      hidden_rows_.push_back(static_cast<std::int32_t>(s.first_row + i));
    }
    if (s.pending() > 1 || s.left() < 2) continue;
    wanted_.push_back(static_cast<std::int32_t>(ids_.size()) - 1);
    guessing_.push_back(&s);
  }
  if (ids_.empty()) return;
  const std::int64_t length = guessing_.empty() ? 0 : draft_length_.choose(std::ssize(guessing_));
  if (length == 0) {
    wanted_.clear();
    guessing_.clear();
  }
  guess();
  for (std::int64_t n = 1; n < length && continue_guesses(); ++n) guess();
}

// The next row of those that may guess further: the last guess, after what the module made of the one before it.
bool Engine::continue_guesses() {
  clear_batch();
  std::size_t going = 0;
  for (std::size_t i = 0; i < guessing_.size(); ++i) {
    Sequence& s = *guessing_[i];
    const std::int64_t position = s.cached + std::ssize(s.drafts) - 1;
    if (position >= std::ssize(s.pages) * kPage || std::ssize(s.drafts) + 2 > s.left()) continue;
    segments_.push_back({std::ssize(ids_), 1, position, s.pages.data()});
    wanted_.push_back(static_cast<std::int32_t>(ids_.size()));
    hidden_rows_.push_back(static_cast<std::int32_t>(i));
    ids_.push_back(s.drafts.back());
    guessing_[going++] = &s;
  }
  guessing_.resize(going);
  return going > 0;
}

// A guess is the draw that the module's logits would give: with the main model's noise, so that it holds as often as can be.
void Engine::guess() {
  decoder_.draft(context_, model_.weights(), model_.absorbed(), cache_.back(), {ids_, segments_, wanted_}, hidden_rows_, draft_logits_BW_);
  core::parallel_for(team_, std::ssize(guessing_), [&](std::int64_t i, int thread) {
    Sequence& s = *guessing_[static_cast<std::size_t>(i)];
    const std::span<const float> logits(draft_logits_BW_.row<float>(i), static_cast<std::size_t>(draft_logits_BW_.cols));
    const std::size_t known = s.tokens.size();
    s.tokens.insert(s.tokens.end(), s.drafts.begin(), s.drafts.end());
    s.drafts.push_back(samplers_[static_cast<std::size_t>(thread)].draw(logits, s.request.sample, s.tokens, s.prompt()));
    s.tokens.resize(known);
  });
}

}  // namespace finback::infer
