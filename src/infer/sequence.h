// A request within the engine.
#pragma once

#include "infer/engine.h"

namespace finback::infer {

// A request and how far it is. tokens[0 … cached) have their latents in pages.
struct Engine::Sequence {
  RequestId id = 0;
  Request request;
  std::vector<std::int32_t> tokens;  // prompt and answer
  std::vector<PagePool::Page> pages;
  std::int64_t cached = 0;
  std::int64_t published = 0;                  // pages, from the first
  PagePool::Prefix prefix = PagePool::kStart;  // that ends with the last of them
  std::int64_t reused = -1;                    // tokens of the prompt, when first admitted; −1: not yet
  std::vector<std::int32_t> drafts;            // guesses of the tokens after tokens.back()
  std::int64_t rows = 0;                       // of this step: pending tokens, then guesses
  std::int64_t first_row = 0, first_wanted = 0;
  std::int64_t advance = 0;  // rows whose latents are of the answer
  Finish finish = Finish::none;
  std::vector<TokenProbability> top;

  std::int64_t pending() const { return std::ssize(tokens) - cached; }
  std::int64_t prompt() const { return std::ssize(request.prompt); }
  std::int64_t left() const { return prompt() + request.max_tokens - std::ssize(tokens); }
};

}  // namespace finback::infer
