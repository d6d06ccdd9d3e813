// A weight on its way from one type into another, and where its values come from.
#pragma once

#include "formats/hf_folder.h"
#include "model/params.h"

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace finback::convert {

enum class Target { fp32, bf16, fp8 };
Target target_of(std::string_view name);  // "fp32", "bf16" or "fp8"
std::string_view name_of(Target target);

struct Weight {
  std::string name;
  std::vector<std::int64_t> shape;                             // as it is stored
  std::int64_t rows = 1, cols = 0;                             // as a matrix; a vector is [1, n]
  core::DType from = core::DType::f32, to = core::DType::f32;  // f32, bf16, f16 or e4m3 into f32, bf16 or e4m3; e4m3: with scales
  // Not empty: a tensor that config.json does not ask for, which keeps its bytes and this safetensors dtype. [1, bytes], u8 into u8.
  std::string verbatim;

  bool has_scales() const { return to == core::DType::e4m3; }
  std::uint64_t stored_bytes() const;  // with scales
};

void set_shape(Weight& weight, const std::vector<std::int64_t>& shape);  // and rows and cols from it

// Rows row … row+rows-1, columns col … col+cols-1 of a weight.
struct Block {
  std::int64_t row = 0, rows = 0, col = 0, cols = 0;
};

class Source {
 public:
  virtual ~Source() = default;
  // The block's elements in the type weight.from, [rows, cols] without gaps. May be called by many threads. Throws core::Error.
  virtual void read(const Weight& weight, const Block& block, void* out) const = 0;
  // Rows first_row … of the scales of a weight that comes in e4m3, checked, [rows, ⌈cols / 128⌉].
  virtual void read_scales(const Weight& weight, std::int64_t first_row, std::int64_t rows, float* out) const = 0;
  virtual std::string where(const Weight& weight) const = 0;  // for messages
};

// The weights of a folder, and what they become. FP8: what model::Parameter::fp8 says; the gate's bias stays F32; what is left
// is BF16 in BF16 and FP8 folders. The copies that MTP modules hold come along if they are there; tensors that the list does not know
// are dequantised if they are FP8 with scales, and keep their bytes otherwise. Throws Error(bad_input) as ModelFolder::check does,
// for weights in a type that config.json does not declare, and for scales beside a weight that is not FP8.
std::vector<Weight> weights_of(const formats::ModelFolder& folder, const model::ModelConfig& config, const model::ParameterList& list,
                               const boost::json::object& config_json, Target target);
// The weights of a model that is to be initialised, MTP's copies among them.
std::vector<Weight> weights_of(const model::ParameterList& list, Target target);

class FolderSource : public Source {
 public:
  explicit FolderSource(const formats::ModelFolder& folder) : folder_(folder) {}
  void read(const Weight& weight, const Block& block, void* out) const override;
  void read_scales(const Weight& weight, std::int64_t first_row, std::int64_t rows, float* out) const override;
  std::string where(const Weight& weight) const override { return folder_.find(weight.name).file->path(); }

 private:
  const formats::ModelFolder& folder_;
};

class InitialSource : public Source {
 public:
  InitialSource(const model::ModelConfig& config, const model::ParameterList& list, std::uint64_t seed);
  void read(const Weight& weight, const Block& block, void* out) const override;
  void read_scales(const Weight& weight, std::int64_t first_row, std::int64_t rows, float* out) const override;
  std::string where(const Weight&) const override { return "initial values"; }

 private:
  const model::ModelConfig& config_;
  const std::uint64_t seed_;
  std::unordered_map<std::string_view, const model::Parameter*> parameters_;  // copies under their own names
};

}  // namespace finback::convert
