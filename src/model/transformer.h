// The whole model: embedding → blocks → final norm → head, and the MTP modules [V3 §2]. One micro-batch at a time.
// Training calls forward_backward, scoring logits; serving has decoder.h.
#pragma once

#include "model/layout.h"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace finback::model {

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
  std::vector<double> balance;                         // [blocks] Σ f·P over sequences; 0 for dense layers
  std::vector<std::int64_t> expert_load;               // [blocks · E] tokens sent to each expert (zero rows for dense layers)
  std::int64_t nonfinite_tiles = 0;                    // of FP8 layers' inputs and gradients: tiles that held a NaN or an infinity
  void reset(const ModelConfig& config);
  // All of it, for sums over ranks.
  std::array<std::span<double>, 3> reals() { return {{{&main, 1}, mtp, balance}}; }
  std::array<std::span<std::int64_t>, 5> counts() {
    return {{{&main_tokens, 1}, mtp_tokens, mtp_accepted, expert_load, {&nonfinite_tiles, 1}}};
  }
};

// Takes the gradient of what the embedding gave for `ids`, in place of the kernel that adds it to the embedding's. mtp: of a module.
using EmbeddingSink = std::function<void(core::ConstMat dembedding_TD, std::span<const std::int32_t> ids, bool mtp)>;

// What is the same for all micro-batches of a step.
struct Pass {
  const kernels::Context& ctx;
  const SlabBuffers& weights;
  const SlabBuffers* gradients = nullptr;  // null: evaluation, no backward
  LossWeights scale = {};
  bool with_mtp = false;
  const EmbeddingSink* embedding = nullptr;

  void embedding_backward(const Run& run, int slab, core::ConstMat dembedding, std::span<const std::int32_t> ids, bool mtp) const;
};

class Transformer {
 public:
  struct Options {
    Precision precision;
    ActivationStorage storage = ActivationStorage::full;
    std::int64_t max_tokens = 0;     // of a micro-batch
    std::int64_t max_seq_len = 0;    // positions 0 … max_seq_len-1
    std::int64_t max_sequences = 0;  // of a micro-batch; 0: max_tokens
    bool training = false;           // room for a backward pass
    // For a pipeline (parallel/pipeline.h):
    std::vector<StageShape> stages = {};  // those computed here; empty: the whole model
    int cells = 1;                        // micro-batches on a stage that are alive at a time, from forward to backward_weight
    int waiting = 0;                      // of them those between backward_input and backward_weight
    bool pairs = false;                   // a forward may run between the phases of a backward
    // Experts spread over ranks (spread.h):
    int expert_ranks = 1;
    ExpertExchange* exchange = nullptr;
    double max_imbalance = 1.5;  // slots for which there is room at the experts here, times what evenly spread ones would be
  };
  struct Memory {
    std::int64_t activations = 0;  // kept from forward to backward of all cells
    std::int64_t recomputed = 0;   // one block's recomputed tensors (0 with ActivationStorage::full)
    std::int64_t work = 0;         // gradients of one block's activations, a piece of the logits, tables
    std::int64_t waiting = 0;      // recomputed tensors and gradients that backward_weight waits for
    std::int64_t slots = 0;        // at the experts here, where they are spread: what arrives from all ranks, and what is made of it
    std::int64_t tiles = 0;        // FP8 codes that one product reads
    std::int64_t total() const { return activations + recomputed + work + waiting + slots + tiles; }
  };
  static Memory memory_needed(const ModelConfig& config, const Options& options);
  // Bytes of the activations that a micro-batch of the largest size really took, on the largest stage.
  std::int64_t activation_bytes() const;
  // Bytes for slots beyond max_imbalance that had to be reserved so far.
  std::int64_t spilled_bytes() const;

  // Reserves that memory. The list holds the slabs of the stages.
  Transformer(const ModelConfig& config, const ParameterList& list, const Options& options);
  ~Transformer();

  // Adds the micro-batch's losses to `sums` and its gradients to the pass's.
  void forward_backward(const Pass& pass, const MicroBatch& batch, LossSums& sums);

  // The same by stages. A cell is one micro-batch on one stage: begin(), then forward(), then, in training, backward() or the two halves
  // of it, in that order; only then may the cell begin again. The micro-batch's tokens and the sums, to which its losses are added, stay
  // where they are meanwhile. begin: returns where the stage's input [T, D] is to be put; nothing where the stage embeds.
  core::Mat begin(int cell, int stage, const MicroBatch& batch, LossSums& sums);
  void forward(const Pass& pass, int cell);
  core::ConstMat output(int cell) const;  // [T, D], until the cell begins again
  // The losses of a stage that has the head are computed at the start of backward; without backward, by losses().
  void losses(const Pass& pass, int cell);
  // doutput: the gradient of the stage's output, read before anything is computed; nothing where the stage has the head. Returns that of
  // its input, until the next call; nothing where the stage embeds.
  core::ConstMat backward(const Pass& pass, int cell, core::ConstMat doutput_TD);
  core::ConstMat backward_input(const Pass& pass, int cell, core::ConstMat doutput_TD);
  void backward_weight(const Pass& pass, int cell);
  // forward() of one cell and backward() of another, phase by phase in turn [V3 §3.2.1, Fig. 4].
  core::ConstMat pair(const Pass& pass, int forward_cell, int backward_cell, core::ConstMat doutput_TD);

  // Losses of the main model in nats, accumulator type [1, tokens]; 0 where the target is −1.
  void score(const kernels::Context& ctx, const SlabBuffers& weights, const MicroBatch& batch, core::Mat loss_1T);

  // Logits (accumulator type, [ids, W]) of one sequence from position 0.
  void logits(const kernels::Context& ctx, const SlabBuffers& weights, std::span<const std::int32_t> ids, core::Mat logits_TW);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace finback::model
