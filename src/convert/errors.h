// What FP8 costs each weight: conversion/errors.json and the line that sums it up.
#pragma once

#include "convert/shard_writer.h"

#include <string>
#include <vector>

namespace finback::convert {

constexpr std::string_view kErrorsName = "conversion/errors.json";

// The errors of one shard, exactly, so that a conversion that goes on later reports those of the shards before.
std::string errors_to_text(const std::vector<WeightError>& errors);
std::vector<WeightError> errors_from_file(const std::string& path);  // throws Error(bad_input)

// {"format_version": 1, "weights": …, "rms": {"all", "largest", "tensor"}, "max": {"largest", "tensor"}, "tensors": {NAME: {"rms",
// "max", "blocks", "original_blocks"}, …}}. rms: of code · scale − weight, over that of the weights; max: largest error over largest
// weight.
std::string error_report(const std::vector<WeightError>& errors);
std::string error_summary(const std::vector<WeightError>& errors);

}  // namespace finback::convert
