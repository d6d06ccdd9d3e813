// FP8 weights as DeepSeek-V3's folder keeps them [its README_WEIGHTS]: X.weight F8_E4M3 [rows, cols] beside X.weight_scale_inv
// F32 [⌈rows / 128⌉, ⌈cols / 128⌉]. A weight is its code times the scale of its block of 128 × 128; the last blocks of a row and
// of a column are what remains.
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace finback::formats {

constexpr std::string_view kScaleSuffix = "_scale_inv";

std::string scale_name(std::string_view weight);
std::vector<std::int64_t> scale_shape(const std::vector<std::int64_t>& weight);  // {} unless the weight is a matrix

// What config.json says of a folder with such weights, under "quantization_config".
boost::json::object quantization_config();

// Holds scales against what they must be: above zero, and at most 2^119, so that the largest code times the scale is a finite BF16. scales
// [rows, cols] are rows first_row … of the tensor `name`. Throws Error(bad_input) with the tensor, the element and its value.
void check_scale_values(const float* scales, std::int64_t first_row, std::int64_t rows, std::int64_t cols, const std::string& name,
                        const std::string& path);

}  // namespace finback::formats
