// One answer by an engine of its own: what `finback generate` runs.
#pragma once

#include "infer/engine.h"

#include <functional>

namespace finback::infer {

// An engine for one sequence of up to `positions` tokens.
EngineOptions for_one_answer(const LoadedModel& model, std::int64_t positions, std::int64_t max_drafts = 0);

struct Generated {
  std::int64_t prompt_tokens = 0, tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;  // until the first token is drawn, and after
  bool ended = false;                              // by a stop token, or by on_token
};

// Answers `request` on an idle engine, handing each token to on_token as it is drawn, until that returns false; a stop token is counted and
// not handed on.
Generated generate(Engine& engine, Request request, const std::function<bool(std::int32_t)>& on_token);

}  // namespace finback::infer
