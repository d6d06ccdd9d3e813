#include "infer/loaded_model.h"

#include "core/error.h"
#include "core/file.h"
#include "core/machine.h"
#include "formats/hf_folder.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace finback::infer {
namespace {

using core::Arena;
using core::DType;

model::Precision precision_of_folder(const model::ModelConfig& config) {
  return model::precision_of(config.torch_dtype == "bfloat16" ? "bf16" : "fp32");
}

// What passes through while weights are put into the kernels' order: a slab, or the two halves of kv_b_proj.
std::int64_t packing_bytes(const model::ModelConfig& m, const model::ParameterList& list, DType dtype) {
  const std::int64_t kv_b = m.num_attention_heads * (m.qk_nope_head_dim + m.v_head_dim) * m.kv_lora_rank * core::size_of(dtype) + 128;
  return std::max(model::packing_bytes(list, dtype), kv_b);
}

std::int64_t weight_bytes(const model::ModelConfig& config, const model::ParameterList& list, DType dtype, core::Team& team,
                          const std::string& folder) {
  Arena count = Arena::counting(), none = Arena::counting();
  model::take_slabs(count, list, dtype);
  const std::int64_t bytes = count.high_water() + model::absorbed_bytes({kernels::best(), team, none}, config, dtype);
  core::require_memory(bytes + packing_bytes(config, list, dtype), folder);
  return bytes;
}

// A checkpoint says what its weights must be, in its manifest; other folders do not.
void verify_weights(const std::string& folder) {
  const std::string manifest = fmt::format("{}/{}", folder, formats::kManifestPath);
  if (!core::exists(manifest)) return;
  const auto faults = formats::Manifest::read(manifest).verify(folder, "train_state/");
  if (!faults.empty())
    throw core::Error(core::Exit::bad_input, fmt::format("{}", fmt::join(faults, "; ")), folder, "use an older checkpoint");
}

}  // namespace

LoadedModel::LoadedModel(const std::string& folder, core::Team& team)
    : config_(model::read_config(folder)),
      list_(model::list_parameters(config_)),
      precision_(precision_of_folder(config_)),
      memory_("weights", weight_bytes(config_, list_, precision_.storage, team, folder)),
      weights_(model::take_slabs(memory_, list_, precision_.storage)) {
  verify_weights(folder);
  formats::ModelFolder(folder).load(list_, team, weights_);
  Arena room("packing", packing_bytes(config_, list_, precision_.storage));
  const kernels::Context ctx{kernels::best(), team, room};
  absorbed_ = model::absorb_weights(ctx, config_, list_, weights_, memory_);
  model::pack_linear_weights(ctx, list_, weights_);
}

void score(const LoadedModel& m, core::Team& team, std::span<const std::int32_t> ids, core::Mat logits) {
  const std::int64_t T = std::ssize(ids);
  Arena scratch("scratch", kernels::scratch_bytes(team.threads()));
  model::Transformer whole(m.config(), m.list(), {.precision = m.precision(), .max_tokens = T, .max_seq_len = T});
  whole.logits({kernels::best(), team, scratch}, m.weights(), ids, logits);
}

}  // namespace finback::infer
