#include "infer/generate.h"

#include "core/clock.h"

#include <algorithm>

namespace finback::infer {

EngineOptions for_one_answer(const LoadedModel& model, std::int64_t positions, std::int64_t max_drafts) {
  const std::int64_t pages = (positions + kernels::kPage - 1) / kernels::kPage;
  return {.max_positions = std::max<std::int64_t>(positions, 2),
          .max_batch = 1,
          .max_step_tokens = std::min<std::int64_t>(positions, 512),
          .cache_bytes = pages * model::page_bytes(model.config(), model.precision().storage, max_drafts > 0),
          .reuse_prefixes = false,
          .max_drafts = max_drafts};
}

Generated generate(Engine& engine, Request request, const std::function<bool(std::int32_t)>& on_token) {
  Generated out{.prompt_tokens = std::ssize(request.prompt)};
  const double start = core::seconds_now();
  double first = 0;
  const RequestId id = engine.submit(std::move(request));
  while (!engine.idle())
    for (const Event& e : engine.step()) {
      if (out.tokens++ == 0) first = core::seconds_now();
      out.ended = e.finish == Finish::stop;
      if (out.ended || on_token(e.token)) continue;
      out.ended = true;
      engine.cancel(id);
    }
  out.prefill_seconds = first - start;
  out.decode_seconds = core::seconds_now() - first;
  return out;
}

}  // namespace finback::infer
