#include "formats/fp8.h"

#include "core/error.h"
#include "kernels/kernels.h"

namespace finback::formats {

std::string scale_name(std::string_view weight) { return std::string(weight).append(kScaleSuffix); }

std::vector<std::int64_t> scale_shape(const std::vector<std::int64_t>& weight) {
  if (weight.size() != 2) return {};
  return {kernels::tiles_of(weight[0]), kernels::tiles_of(weight[1])};
}

boost::json::object quantization_config() {
  return {{"activation_scheme", "dynamic"},
          {"fmt", "e4m3"},
          {"quant_method", "fp8"},
          {"weight_block_size", boost::json::array{kernels::kTile, kernels::kTile}}};
}

void check_scale_values(const float* scales, std::int64_t first_row, std::int64_t rows, std::int64_t cols, const std::string& name,
                        const std::string& path) {
  for (std::int64_t i = 0; i < rows * cols; ++i)
    if (!(scales[i] > 0 && scales[i] <= 0x1p119f))
      throw core::Error(core::Exit::bad_input,
                        fmt::format("tensor '{}' [{}, {}] is {}: a scale lies above 0 and is at most 2^119", name, first_row + i / cols,
                                    i % cols, scales[i]),
                        path, "download or convert the folder again");
}

}  // namespace finback::formats
