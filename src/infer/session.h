// A model in memory and one sequence being continued: the plain decode loop behind `score` and `generate`.
#pragma once

#include "infer/sampler.h"
#include "model/transformer.h"

#include <functional>
#include <memory>
#include <span>
#include <string>

namespace finback::infer {

// The weights of a Hugging Face folder, in BF16 if the folder's are, else FP32; those of linear layers packed for kernels::best(), in
// the memory they take anyway.
class LoadedModel {
 public:
  // Throws core::Error as formats::ModelFolder does; Error(bad_input) with the tensors that a checkpoint's manifest has otherwise;
  // Error(usage) with the sizes when the machine's memory is too small.
  LoadedModel(const std::string& folder, core::Team& team);

  const model::ModelConfig& config() const { return config_; }
  const model::ParameterList& list() const { return list_; }
  const model::SlabBuffers& weights() const { return weights_; }
  model::Precision precision() const { return precision_; }

 private:
  model::ModelConfig config_;
  model::ParameterList list_;
  model::Precision precision_;
  core::Arena memory_;
  model::SlabBuffers weights_;
};

// One sequence of up to `max_positions` tokens.
class Session {
 public:
  Session(const LoadedModel& model, core::Team& team, std::int64_t max_positions);

  // Logits of every position of `ids`, accumulator type [ids, W]; does not touch the sequence.
  void logits(std::span<const std::int32_t> ids, core::Mat logits_TW);

  // Appends tokens; returns the logits after the last one. Error(usage) beyond max_positions.
  std::span<const float> extend(std::span<const std::int32_t> ids);
  std::int64_t positions() const { return positions_; }

 private:
  static constexpr std::int64_t kChunk = 512;  // positions of a prompt at a time
  const LoadedModel& model_;
  core::Arena scratch_, cache_memory_;
  kernels::Context context_;
  model::Transformer transformer_;
  std::vector<model::KeyValueRows> cache_;
  core::Mat logits_1W_;
  std::int64_t max_positions_, positions_ = 0;
};

struct Generated {
  std::int64_t prompt_tokens = 0, tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;
  bool ended = false;  // by the end-of-sequence token
};

// Continues `prompt` by up to max_tokens, handing each token to on_token as it is drawn. Stops at eos.
Generated generate(Session& session, std::span<const std::int32_t> prompt, std::int64_t max_tokens, std::int32_t eos,
                   const SampleOptions& options, const std::function<void(std::int32_t)>& on_token);

}  // namespace finback::infer
