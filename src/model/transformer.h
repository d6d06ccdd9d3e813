// The whole model: embedding → blocks → final norm → head, and the MTP modules [V3 §2]. One micro-batch at a time.
// Training calls forward_backward; scoring and generation call forward with segments.
#pragma once

#include "model/params.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace finback::model {

// Which matrices have which type.
struct Precision {
  core::DType storage = core::DType::bf16;     // activations and the compute copy of the weights
  core::DType accumulator = core::DType::f32;  // gradients, masters, logits, losses
};
Precision precision_of(std::string_view name);  // fp32, bf16, fp64 (the reference backend only)

// What a layer keeps from forward to backward.
enum class ActivationStorage {
  full,  // all that backward reads
  bf16,  // norms, MLA up-projections and SwiGLU outputs are computed again [V3 §3.2.3]
};
ActivationStorage activation_storage_of(std::string_view name);

struct MicroBatch {
  std::int64_t sequences = 0, seq_len = 0;
  std::span<const std::int32_t> inputs;   // [sequences · seq_len]
  std::span<const std::int32_t> targets;  // [sequences · seq_len], the next token; −1: not scored
};

struct LossWeights {
  double main = 1;              // multiplies each token's loss gradient: 1 / (scored tokens of the step)
  double mtp = 0;               // likewise for each MTP depth: λ / (D · tokens of the step) [V3 Eq. 24–25]
  double sequence_balance = 0;  // α / (sequences of the step), per MoE layer [V3 Eq. 17]
};

// Sums over what was run; the caller zeroes and reads them.
struct LossSums {
  double main = 0;  // nats, over main_tokens
  std::int64_t main_tokens = 0;
  std::vector<double> mtp;                             // one a depth
  std::vector<std::int64_t> mtp_tokens, mtp_accepted;  // accepted: the module's argmax equals the main model's for that position
  double balance = 0;                                  // Σ f·P over sequences and MoE layers
  std::vector<std::int64_t> expert_load;               // [blocks · E] tokens sent to each expert (zero rows for dense layers)
  void reset(const ModelConfig& config);
};

class Transformer {
 public:
  // Sizes everything for micro-batches of up to `max_tokens` tokens in sequences of up to `max_seq_len`.
  // Memory: `activations` and `work` arenas are created here; their sizes can be asked for before with memory_needed().
  Transformer(const ModelConfig& config, const ParameterList& list, Precision precision, ActivationStorage storage, std::int64_t max_tokens,
              std::int64_t max_seq_len, bool training);
  ~Transformer();

  struct Memory {
    std::int64_t activations = 0;  // kept from forward to backward, per micro-batch
    std::int64_t work = 0;         // temporaries of one layer and of the loss
  };
  static Memory memory_needed(const ModelConfig& config, Precision precision, ActivationStorage storage, std::int64_t max_tokens,
                              std::int64_t max_seq_len, bool training);

  // Adds the micro-batch's losses to `sums` and its gradients to `gradients` (skipped when null: evaluation).
  // MTP losses are computed when `with_mtp`.
  void forward_backward(const kernels::Context& ctx, const SlabBuffers& weights, const MicroBatch& batch, const LossWeights& scale,
                        bool with_mtp, const SlabBuffers* gradients, LossSums& sums);

  // Per-token losses of the main model in nats, accumulator type [1, tokens] (targets −1 give 0), and nothing else.
  void score(const kernels::Context& ctx, const SlabBuffers& weights, const MicroBatch& batch, core::Mat loss_1T);

  // Logits of the given rows of a batch; ids are one sequence from position 0. logits: accumulator type [ids, W].
  void logits(const kernels::Context& ctx, const SlabBuffers& weights, std::span<const std::int32_t> ids, core::Mat logits_TW);

  // Draft accuracy and decoding with a cache live in infer/.
  const ModelConfig& config() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace finback::model
