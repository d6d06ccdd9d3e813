// What an FP8 folder was: its scales, how its tensors lay in shards, its config.json. Kept beside what it was converted into, so that the
// way back gives the same bytes. One safetensors file in a folder of its own, where no loader of models looks:
//
//   conversion/fp8_source.safetensors     tensors: every weight_scale_inv as it was
//                                         __metadata__: config.json and model.safetensors.index.json as text, and shards: JSON
//                                         [{"name", "bytes" of the file, "header" as text}]
#pragma once

#include "convert/plan.h"

#include <optional>
#include <string>

namespace finback::convert {

constexpr std::string_view kConversionFolder = "conversion";
constexpr std::string_view kRecordName = "conversion/fp8_source.safetensors";

class Record {
 public:
  // Throws Error(bad_input) for a file that is damaged.
  explicit Record(const std::string& path);

  const std::string& config() const { return config_; }
  const std::string& index() const { return index_; }  // empty: one shard
  std::vector<Shard> shards() const { return shards_; }

  // Rows first_row … of the original scales of a weight, as Source::read_scales. False: there are none.
  bool read_scales(const Weight& weight, std::int64_t first_row, std::int64_t rows, float* out) const;

 private:
  formats::SafetensorsFile file_;
  std::string config_, index_;
  std::vector<Shard> shards_;
};

// Writes the record of an FP8 folder, scale by scale. `config` is the text of its config.json.
void write_record(const std::string& path, const formats::ModelFolder& folder, const std::string& config);
std::uint64_t record_bytes(const formats::ModelFolder& folder);  // of the scales in it

}  // namespace finback::convert
