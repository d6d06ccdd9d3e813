// Arithmetic of a model, counted from its shape: what a share of the machine's ceiling is taken of.
#pragma once

#include "model/config.h"

#include <cstdint>

namespace finback::model {

// Weights that one token is multiplied with: every linear layer of every block it passes, the gate, its chosen and shared experts and
// the head; not the embedding, which is looked up. with_mtp: the MTP modules too, each with its projection and the head again.
std::int64_t active_matmul_parameters(const ModelConfig& config, bool with_mtp);

// Floating-point operations of training on one token of a sequence of seq_len: 6 × active parameters (2 forward, 4 backward) + 3 ×
// attention's two products over the causal half. Recomputation, norms and the optimiser are not counted.
double model_flops_per_token(const ModelConfig& config, std::int64_t seq_len, bool with_mtp);

}  // namespace finback::model
