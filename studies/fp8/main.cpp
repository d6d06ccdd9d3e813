// The part of studies/fp8/run that computes: what its runs came to, and the page about it.
//
//   finback_fp8_study sums OUT.json                     the errors of sums of 14 bits
//   finback_fp8_study collect RUNS WORK RESULTS.json    all that the study came to, read from its folder
//   finback_fp8_study page RESULTS.json FOLDER          writes fp8.md and its pictures
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "studies/fp8/page.h"

#include <cstdio>
#include <string_view>

int main(int argc, char** argv) {
  using namespace finback;
  try {
    const std::string_view command = argc > 1 ? argv[1] : "";
    if (command == "sums" && argc == 3) {
      core::write_file_atomic(argv[2], core::pretty_json(studies::to_json(studies::accumulation_study())));
    } else if (command == "collect" && argc == 5) {
      core::write_file_atomic(argv[4], core::pretty_json(studies::to_json(studies::collect(argv[2], argv[3]))));
    } else if (command == "page" && argc == 4) {
      const std::string folder = argv[3];
      for (const studies::Document& d : studies::write_page(studies::from_json(core::read_json_file(argv[2]), argv[2])))
        core::write_file_atomic(folder + "/" + d.name, d.text);
    } else {
      throw core::Error(core::Exit::usage, "unknown command", "finback_fp8_study",
                        "give: sums OUT.json, or: collect RUNS WORK RESULTS.json, or: page RESULTS.json FOLDER");
    }
    return 0;
  } catch (const core::Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    return static_cast<int>(e.code());
  }
}
