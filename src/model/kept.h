// What the activation store keeps from forward to backward, as a list: tensor by tensor, with its format and its bytes. It is
// computed from the shape alone, apart from the code that takes the memory, so that one can be held against the other.
#pragma once

#include "model/config.h"
#include "model/precision.h"

#include <cstdint>
#include <string>
#include <vector>

namespace finback::model {

struct KeptTensor {
  std::string name;
  std::string format;  // as core::name_of; e4m3 and e5m6: their f32 scales counted in
  std::int64_t bytes_per_token = 0;
};

struct KeptList {
  std::string where;        // "dense layer", "MoE layer", "between layers"
  std::int64_t layers = 1;  // of this kind
  std::vector<KeptTensor> tensors;
  std::int64_t bytes_per_token() const;  // of one layer
};

// A dense layer, an MoE layer, and what lies between the layers. Left out: what sequences and experts have, a few numbers each.
std::vector<KeptList> kept_tensors(const ModelConfig& config, const Precision& precision, ActivationStorage storage);

// Of all layers.
std::int64_t kept_bytes_per_token(const ModelConfig& config, const Precision& precision, ActivationStorage storage);

// The list as text, a line a tensor.
std::string describe_kept(const ModelConfig& config, const Precision& precision, ActivationStorage storage);

}  // namespace finback::model
