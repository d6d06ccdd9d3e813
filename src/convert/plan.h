// Which file of a folder holds which tensor at which byte, before anything is written. Shards are named as in the published folders:
// model-00001-of-000163.safetensors.
#pragma once

#include "convert/weight.h"
#include "formats/safetensors.h"

#include <map>
#include <optional>

namespace finback::convert {

constexpr std::uint64_t kShardBytes = 4'300'000'000;  // what most shards of the published folder hold

// A weight's place in one shard: its elements or codes, its scales, or both.
struct Part {
  std::size_t weight = 0;                     // in Plan::weights
  std::optional<std::uint64_t> data, scales;  // bytes of the file at which they begin
};

struct Shard {
  std::string name;
  formats::SafetensorsHead head;
  std::vector<Part> parts;
};

struct Plan {
  std::vector<Weight> weights;
  std::vector<Shard> shards;
  std::string index;  // model.safetensors.index.json, empty for one shard

  struct Sum {
    std::int64_t tensors = 0;
    std::uint64_t bytes = 0;
  };
  std::map<std::string, Sum> sums() const;  // of the tensors of each type
  std::uint64_t bytes() const;              // of all files above
};

// Weights one after the other, each with its scales, a new shard where max_shard_bytes would be exceeded (a weight that is larger gets
// a shard of its own). In a file wider types come first, so that every element lies aligned.
Plan make_plan(std::vector<Weight> weights, std::uint64_t max_shard_bytes);

// Where every tensor lies in shards with these heads. Nothing if they do not hold exactly the weights: another name or shape, scales
// without codes, a type into which nothing is converted.
std::optional<Plan> plan_like(std::vector<Weight> weights, std::vector<Shard> shards, std::string index);

}  // namespace finback::convert
