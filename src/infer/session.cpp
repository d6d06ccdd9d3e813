#include "infer/session.h"

#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/machine.h"
#include "formats/hf_folder.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace finback::infer {
namespace {

using core::DType;
using core::Mat;

model::Precision precision_of_folder(const model::ModelConfig& config) {
  return model::precision_of(config.torch_dtype == "bfloat16" ? "bf16" : "fp32");
}

std::int64_t weight_bytes(const model::ParameterList& list, DType dtype, const std::string& folder) {
  core::Arena count = core::Arena::counting();
  model::take_slabs(count, list, dtype);
  core::require_memory(count.high_water() + model::packing_bytes(list, dtype), folder);
  return count.high_water();
}

std::int64_t cache_bytes(const model::ModelConfig& m, model::Precision p, std::int64_t positions) {
  const std::int64_t row = m.num_attention_heads * (m.qk_nope_head_dim + m.v_head_dim) + m.qk_rope_head_dim;
  return m.num_hidden_layers * (positions * row * core::size_of(p.storage) + 128) + m.vocab_size * core::size_of(p.accumulator) + 64;
}

// A checkpoint says what its weights must be, in its manifest; other folders do not.
void verify_weights(const std::string& folder) {
  const std::string manifest = fmt::format("{}/{}", folder, formats::kManifestPath);
  if (!core::exists(manifest)) return;
  const auto faults = formats::Manifest::read(manifest).verify(folder, "train_state/");
  if (!faults.empty())
    throw core::Error(core::Exit::bad_input, fmt::format("{}", fmt::join(faults, "; ")), folder, "use an older checkpoint");
}

model::Transformer::Options transformer_options(const LoadedModel& model, std::int64_t positions, std::int64_t chunk) {
  return {.precision = model.precision(), .max_tokens = std::min(positions, chunk), .max_seq_len = positions};
}

}  // namespace

LoadedModel::LoadedModel(const std::string& folder, core::Team& team)
    : config_(model::read_config(folder)),
      list_(model::list_parameters(config_)),
      precision_(precision_of_folder(config_)),
      memory_("weights", weight_bytes(list_, precision_.storage, folder)),
      weights_(model::take_slabs(memory_, list_, precision_.storage)) {
  verify_weights(folder);
  formats::ModelFolder(folder).load(list_, team, weights_);
  core::Arena room("packing", model::packing_bytes(list_, precision_.storage));
  model::pack_linear_weights({kernels::best(), team, room}, list_, weights_);
}

Session::Session(const LoadedModel& loaded, core::Team& team, std::int64_t max_positions)
    : model_(loaded),
      scratch_("scratch", kernels::scratch_bytes(team.threads())),
      cache_memory_("key-value cache", cache_bytes(loaded.config(), loaded.precision(), max_positions)),
      context_{kernels::best(), team, scratch_},
      transformer_(loaded.config(), loaded.list(), transformer_options(loaded, max_positions, kChunk)),
      max_positions_(max_positions) {
  const model::ModelConfig& m = loaded.config();
  const DType storage = loaded.precision().storage;
  for (std::int64_t l = 0; l < m.num_hidden_layers; ++l)
    cache_.push_back({cache_memory_.take_mat(storage, max_positions, m.num_attention_heads * (m.qk_nope_head_dim + m.v_head_dim)),
                      cache_memory_.take_mat(storage, max_positions, m.qk_rope_head_dim)});
  logits_1W_ = cache_memory_.take_mat(loaded.precision().accumulator, 1, m.vocab_size);
}

void Session::logits(std::span<const std::int32_t> ids, Mat logits_TW) {
  model::Transformer whole(model_.config(), model_.list(),
                           transformer_options(model_, static_cast<std::int64_t>(ids.size()), static_cast<std::int64_t>(ids.size())));
  whole.logits(context_, model_.weights(), ids, logits_TW);
}

std::span<const float> Session::extend(std::span<const std::int32_t> ids) {
  const auto n = static_cast<std::int64_t>(ids.size());
  if (positions_ + n > max_positions_)
    throw core::Error(core::Exit::usage, fmt::format("{} tokens do not fit after {} of {}", n, positions_, max_positions_), "prompt",
                      "give a shorter prompt or fewer tokens");
  for (std::int64_t begin = 0; begin < n; begin += kChunk) {
    const std::int64_t count = std::min(kChunk, n - begin);
    transformer_.extend(context_, model_.weights(), ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
                        positions_, cache_, logits_1W_);
    positions_ += count;
  }
  return {logits_1W_.row<float>(0), static_cast<std::size_t>(logits_1W_.cols)};
}

Generated generate(Session& session, std::span<const std::int32_t> prompt, std::int64_t max_tokens, std::int32_t eos,
                   const SampleOptions& options, const std::function<void(std::int32_t)>& on_token) {
  Sampler sampler(options);
  Generated out{.prompt_tokens = static_cast<std::int64_t>(prompt.size())};
  const double start = core::seconds_now();
  std::span<const float> logits = session.extend(prompt);
  const double prefilled = core::seconds_now();
  while (out.tokens < max_tokens) {
    const std::int32_t token = sampler.draw(logits, static_cast<std::uint64_t>(session.positions()));
    ++out.tokens;
    if (token == eos) {
      out.ended = true;
      break;
    }
    on_token(token);
    if (out.tokens < max_tokens) logits = session.extend({&token, 1});
  }
  out.prefill_seconds = prefilled - start;
  out.decode_seconds = core::seconds_now() - prefilled;
  return out;
}

}  // namespace finback::infer
