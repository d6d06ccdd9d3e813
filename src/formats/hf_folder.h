// A model as Hugging Face keeps it: a folder with config.json and either model.safetensors or model.safetensors.index.json
// beside shards. What a folder must hold is model::ParameterList; reading and writing walk it.
#pragma once

#include "core/team.h"
#include "formats/manifest.h"
#include "formats/safetensors.h"
#include "model/params.h"

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace finback::formats {

// The tensors of a folder, wherever they lie. Opening reads headers alone.
class ModelFolder {
 public:
  // Throws Error(io) if there is no model, Error(bad_input) for a malformed file, an index that names a shard that is missing or
  // outside the folder, or tensors that are missing from their shard or lie in two: all of them in one message. Symbolic links
  // are followed within the folder and, in a Hugging Face cache (…/snapshots/REVISION), into its blobs.
  explicit ModelFolder(const std::string& path);

  struct Tensor {
    const SafetensorsFile* file = nullptr;
    const TensorInfo* info = nullptr;
    explicit operator bool() const { return info != nullptr; }
  };
  Tensor find(std::string_view name) const;
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  const std::string& path() const { return path_; }

  // Holds the folder against the list. Throws Error(bad_input) with every tensor that is missing, has another shape or a dtype
  // that weights cannot have, and every FP8 weight whose scales (formats/fp8.h) are missing or of another shape or dtype;
  // Error(usage) with the fields of config.json where shapes alone differ. Returns the tensors that the list does not know.
  std::vector<std::string> check(const model::ParameterList& list) const;
  void warn_of_unknown(const std::vector<std::string>& names) const;  // one line, if there are any
  // check(), with a warning of what it returns; then reads every parameter into its rows of `out` (f64, f32 or bf16), converting
  // from F32, BF16, F16, or FP8 times its scales, by rounding to nearest. Throws Error(bad_input) for a scale that is not above zero
  // and finite. Warns if an MTP module's copy of the embedding or of the head differs from the main model's, which is used.
  void load(const model::ParameterList& list, core::Team& team, const model::SlabBuffers& out) const;

  // The copies among `list.duplicates` that are there and differ from what they are copies of. Reads them.
  std::vector<std::string> differing_duplicates(const model::ParameterList& list) const;
  // What check() does of the scales of one FP8 weight.
  void check_scales(Tensor weight) const;
  // Rows first_row … of the scales of an FP8 weight that a check has passed, [rows, ⌈cols / 128⌉]. Throws Error(bad_input) for one
  // that is not above zero and finite.
  void read_scales(Tensor weight, std::int64_t first_row, std::int64_t rows, float* out) const;

 private:
  class Faults;
  void open_shards();
  void check_scales_of(Tensor weight, Faults& faults) const;
  std::string path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unordered_map<std::string_view, Tensor> tensors_;
};

struct SaveOptions {
  core::DType dtype =
      core::DType::bf16;  // bf16, f32 or e4m3 (what Parameter::fp8 says, with scales; the rest BF16); what keep_f32 says stays F32
  bool power_of_two_scales = false;  // of e4m3
  std::uint64_t max_shard_bytes = 5'000'000'000;
  std::string tokenizer;  // a folder whose tokenizer files are copied, or one such file; empty: none
};

// The small files beside config.json and the weights, name and text: generation_config.json, and the tokenizer's files, as
// SaveOptions::tokenizer.
std::vector<std::pair<std::string, std::string>> companions(const model::ModelConfig& config, const std::string& tokenizer);

// Writes config.json, generation_config.json, the tokenizer's files and the weights, in one file or in shards with an index,
// MTP's copies of embedding and head among them. Each file is atomic and flushed to disk. `weights` are f64, f32 or bf16 (into e4m3:
// f32 or bf16, quantised as the compute copy of FP8 training is, to the same codes and scales).
// Returns what was written, for a manifest.
std::vector<FileSum> save_model(const std::string& folder, const model::ModelConfig& config, const model::ParameterList& list,
                                const model::SlabBuffers& weights, const SaveOptions& options = {});

}  // namespace finback::formats
