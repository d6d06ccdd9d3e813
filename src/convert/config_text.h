// config.json on its way from one type into another: torch_dtype and quantization_config change, all else stays as it is.
#pragma once

#include "convert/record.h"

#include <boost/json/object.hpp>

#include <string>

namespace finback::convert {

boost::json::object config_for(const boost::json::object& config, Target target);

// The text to write. Into FP8 with the record of what the folder was: the very text it had, if config.json is still what finback made
// of it, else with the record's quantization_config and torch_dtype.
std::string config_text(const boost::json::object& config, Target target, const Record* record);

}  // namespace finback::convert
