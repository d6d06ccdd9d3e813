// Speed of one linear layer's products beside the roofs over them and beside another program, all measured in turn.
#pragma once

#include "core/tensor.h"
#include "kernels/kernels.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace finback::measure {

enum class Pass { forward, backward_input, backward_weight };

// The layer y_MN = x_MK · w_NKᵀ, whatever the pass. Results as training has them: dx in the type of the activations, dw += in f32; but
// y is f32 whatever the type, as the peer's is.
struct Gemm {
  std::int64_t m = 0, n = 0, k = 0, groups = 1;  // with groups, m is the rows of all of them
  // f32 or bf16; or e4m3: weights are codes with scales of 128×128 blocks, activations and gradients are bf16 and coded inside the call
  // (backward_weight finds x coded in 1×128 tiles, as forward left it, and tiles it anew).
  core::DType dtype = core::DType::bf16;
  Pass pass = Pass::forward;
  bool packed = true;   // forward finds the weights as kernels.pack_weights leaves them; the other passes read rows
  bool uneven = false;  // groups have from none to twice the mean of the rows, spread evenly in between
  bool cold = false;    // every call finds the weights in memory, not in the caches: as many copies as no cache holds, used in turn
};

// All medians over bursts; shares are medians of the shares within a round of bursts.
struct GemmSpeed {
  std::int64_t rounds = 0;
  double seconds = 0;                                // of a call, at the median rate
  double gflops = 0, best_gflops = 0;                // 2·m·n·k a call, in 10^9 a second
  double ceiling_gflops = 0, share_of_ceiling = 0;   // of the type's arithmetic; e4m3 is multiplied as bf16
  double gb_per_s = 0;                               // operands read and result written (and read where it is added to) once
  double bandwidth_gb_per_s = 0;                     // the same traffic alone, from the same level of the machine's memory …
  std::string level;                                 // … which is "L2", "L3" or "memory"
  double share_of_bandwidth = 0, share_of_roof = 0;  // roof: the lower of the two
  // With groups: one group after the other by itself, each with the mean number of rows and weights as cold.
  std::optional<double> dense_gflops, share_of_dense;
  // The peer: forward products without groups of f32 and bf16.
  std::optional<double> peer_gflops, ratio_to_peer;
  std::string peer;  // its name and what it chose
};

// Calls the product for about `seconds`, and each of what it is compared with for as long. peer: the program (bench/peers/onednn_gemm.cpp),
// or empty. Throws Error(usage) when the operands are larger than the memory that is free.
GemmSpeed gemm(const kernels::Table& kernels, core::Team& team, const Gemm& shape, const std::string& peer, double seconds);

// The shapes that finback is held to, of one type: large, of an expert, of decoding with weights in the cache and in memory, and 64
// experts.
std::vector<Gemm> gemm_suite(core::DType dtype);

}  // namespace finback::measure
