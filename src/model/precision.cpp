#include "model/precision.h"

#include "core/error.h"

namespace finback::model {

using core::DType;
using core::Error;
using core::Exit;

Precision precision_of(std::string_view name) {
  if (name == "fp32") return {DType::f32, DType::f32};
  if (name == "bf16") return {DType::bf16, DType::f32};
  if (name == "fp8") return {DType::bf16, DType::f32, Fp8{}};
  if (name == "fp64") return {DType::f64, DType::f64};
  throw Error(Exit::usage, fmt::format("unknown precision '{}'", name), "precision", "choose fp32, bf16 or fp8");
}

ActivationStorage activation_storage_of(std::string_view name) {
  if (name == "full") return ActivationStorage::full;
  if (name == "bf16") return ActivationStorage::bf16;
  if (name == "fp8") return ActivationStorage::fp8;
  if (name == "paper") return ActivationStorage::paper;
  throw Error(Exit::usage, fmt::format("unknown activation_storage '{}'", name), "activation_storage", "choose full, bf16, fp8 or paper");
}

void check_storage(const Precision& precision, ActivationStorage storage) {
  const bool codes = storage == ActivationStorage::fp8 || storage == ActivationStorage::paper;
  if (codes && !precision.fp8)
    throw Error(Exit::usage, "activation_storage fp8 and paper keep FP8 codes, which this precision has none of", "activation_storage",
                "set precision to fp8, or activation_storage to bf16 or full");
}

}  // namespace finback::model
