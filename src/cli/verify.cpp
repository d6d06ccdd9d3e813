// finback verify: whether a checkpoint or a model is whole.
#include "cli/command.h"
#include "core/json.h"
#include "formats/inspect.h"

#include <boost/json/array.hpp>

#include <memory>

namespace finback::cli {
namespace {

void print_json(const std::vector<formats::Verified>& all) {
  boost::json::array checked;
  bool ok = true;
  for (const formats::Verified& v : all) {
    ok = ok && v.faults.empty();
    checked.push_back({{"path", v.path},
                       {"kind", formats::name_of(v.kind)},
                       {"checksums", v.has_checksums},
                       {"files", v.files},
                       {"bytes", v.bytes},
                       {"faults", boost::json::array(v.faults.begin(), v.faults.end())}});
  }
  fmt::print("{}", core::pretty_json(boost::json::object{{"ok", ok}, {"checked", checked}}));
}

void print_text(const std::vector<formats::Verified>& all) {
  for (const formats::Verified& v : all) {
    for (const std::string& fault : v.faults) fmt::print("✗ {}\n", fault);
    if (!v.faults.empty()) continue;
    fmt::print("✓ {}: {}, {} file{}, {:.1f} MB, {}\n", v.path, formats::name_of(v.kind), v.files, v.files == 1 ? "" : "s",
               static_cast<double>(v.bytes) * 1e-6,
               v.has_checksums ? "every byte as written" : "structure whole; without a manifest the values cannot be compared");
  }
}

void verify(const std::string& path, bool check_tensors, bool json) {
  const auto all = formats::verify(path, check_tensors);
  json ? print_json(all) : print_text(all);
  std::size_t faults = 0;
  for (const auto& v : all) faults += v.faults.size();
  if (faults > 0)
    throw core::Error(core::Exit::bad_input, fmt::format("{} fault{}", faults, faults == 1 ? "" : "s"), path,
                      "use an older checkpoint, or download or convert the files again");
}

}  // namespace

void add_verify(CLI::App& app) {
  struct Options {
    std::string path;
    bool check_tensors = false, json = false;
  };
  auto* command = app.add_subcommand("verify", "Whether a checkpoint or a model is whole; a flipped bit is found and named");
  const auto o = std::make_shared<Options>();
  command->add_option("path", o->path, "a checkpoint, a model folder, a run's folder, a .safetensors or token file")->required();
  command->add_flag("--check-tensors", o->check_tensors, "read every value too: NaN and infinity are faults");
  command->add_flag("--json", o->json, "one JSON object");
  command->footer("Example:\n  finback verify runs/tiny");
  command->callback([o] { verify(o->path, o->check_tensors, o->json); });
}

}  // namespace finback::cli
