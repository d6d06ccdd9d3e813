// Any bytes as a RUN.toml; an accepted one writes itself so that it reads back the same.
#include "tests/fuzz/fuzz.h"
#include "train/run_config.h"

FUZZ(input) {
  const auto config = finback::train::parse_run_config(input, "input");
  const auto again = finback::train::parse_run_config(finback::train::to_toml(config), "again");
  FB_CHECK(finback::train::differences(config, again).empty(), "{}", fmt::join(finback::train::differences(config, again), "; "));
}
