// Any bytes as the record of an FP8 folder; the shards that an accepted one names are held against two weights.
#include "convert/record.h"
#include "tests/fuzz/fuzz.h"

FUZZ(input) {
  using finback::convert::Weight;
  const finback::convert::Record record(finback::fuzz::put("fp8_source.safetensors", input));
  std::vector<Weight> weights = {{.name = "a.weight", .shape = {130, 200}, .rows = 130, .cols = 200, .from = finback::core::DType::bf16},
                                 {.name = "b", .shape = {3}, .cols = 3, .from = finback::core::DType::bf16}};
  std::vector<float> scales(4);
  record.read_scales(weights[0], 0, 2, scales.data());
  const auto plan = finback::convert::plan_like(weights, record.shards(), record.index());
  if (!plan) return;
  for (const auto& shard : plan->shards)
    for (const auto& part : shard.parts) {
      const Weight& w = plan->weights[part.weight];
      FB_CHECK(!part.data || *part.data + static_cast<std::uint64_t>(w.rows * w.cols) <= shard.head.file_bytes, "{}", w.name);
      FB_CHECK(!part.scales || *part.scales + 4 * sizeof(float) <= shard.head.file_bytes, "{}", w.name);
    }
}
