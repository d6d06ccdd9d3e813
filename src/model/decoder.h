// The model as serving runs it: forward alone, a ragged batch of tokens of many sequences, the absorbed form of attention against a paged
// latent cache. A token's logits have the bits that they have in any other batch (docs/exactness.md).
#pragma once

#include "model/absorbed_weights.h"
#include "model/mla.h"

#include <memory>
#include <span>

namespace finback::model {

// Bytes of one page of the latent cache, all main layers and, with_drafts, the first MTP module.
std::int64_t page_bytes(const ModelConfig& config, core::DType storage, bool with_drafts = false);

struct RaggedBatch {
  std::span<const std::int32_t> ids;                // [T]
  std::span<const kernels::PagedSegment> segments;  // in the order of their rows, which are all T
  std::span<const std::int32_t> wanted;             // the rows whose logits are asked for
};

class Decoder {
 public:
  struct Options {
    Precision precision;          // storage bf16 or f32, no FP8 layers
    std::int64_t max_tokens = 0;  // of a batch
    std::int64_t max_wanted = 0;
    std::int64_t max_positions = 0;  // of a sequence
    bool drafts = false;             // draft() will be called: the model has an MTP module
  };
  // Bytes it will reserve.
  static std::int64_t memory_needed(const ModelConfig& config, const Options& options);
  Decoder(const ModelConfig& config, const ParameterList& list, const Options& options);
  ~Decoder();

  // Puts the latents of the batch into `cache` (one matrix [pages · kPage, C + R] a main layer) and writes logits_TW, accumulator type, a
  // row for each wanted one. Allocates nothing.
  void forward(const kernels::Context& ctx, const SlabBuffers& weights, const AbsorbedWeights& absorbed, std::span<const core::Mat> cache,
               const RaggedBatch& batch, core::Mat logits_TW);

  // The first MTP module on rows whose successors are known [V3 §2.2]: batch.ids holds the token after each row's, and hidden_rows which
  // row of the call before it continues: of forward()'s rows, or of draft()'s wanted ones, for guesses further ahead. cache is the module's
  // layer. logits_TW: of the token after next, for each wanted row.
  void draft(const kernels::Context& ctx, const SlabBuffers& weights, const AbsorbedWeights& absorbed, core::Mat cache,
             const RaggedBatch& batch, std::span<const std::int32_t> hidden_rows, core::Mat logits_TW);

  // Experts that any token went to, over all layers and calls so far: the weights that were read.
  std::int64_t experts_read() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace finback::model
