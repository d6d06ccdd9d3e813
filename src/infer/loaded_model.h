// A model in memory, ready to be run forward.
#pragma once

#include "model/absorbed_weights.h"
#include "model/transformer.h"

#include <span>
#include <string>

namespace finback::infer {

// The weights of a Hugging Face folder, in BF16 if the folder's are, else FP32; those of linear layers packed for kernels::best(), in
// the memory they take anyway, and the halves of kv_b_proj once more for the absorbed form of attention.
class LoadedModel {
 public:
  // Throws core::Error as formats::ModelFolder does; Error(bad_input) with the tensors that a checkpoint's manifest has otherwise;
  // Error(usage) with the sizes when the machine's memory is too small.
  LoadedModel(const std::string& folder, core::Team& team);

  const model::ModelConfig& config() const { return config_; }
  const model::ParameterList& list() const { return list_; }
  const model::SlabBuffers& weights() const { return weights_; }
  const model::AbsorbedWeights& absorbed() const { return absorbed_; }
  model::Precision precision() const { return precision_; }

 private:
  model::ModelConfig config_;
  model::ParameterList list_;
  model::Precision precision_;
  core::Arena memory_;
  model::SlabBuffers weights_;
  model::AbsorbedWeights absorbed_;
};

// Logits of every position of one sequence, accumulator type [ids, W], by the plain form of attention: what training computes.
void score(const LoadedModel& model, core::Team& team, std::span<const std::int32_t> ids, core::Mat logits_TW);

}  // namespace finback::infer
