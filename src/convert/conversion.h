// finback convert: a model folder in another type, tensor by tensor, with a few MB of memory a thread whatever the model.
//
// All is written into OUT.tmp, config.json last; one rename makes it OUT. So a folder that looks whole is whole. OUT.tmp holds
// whole shards under their names and, until the end, plan.json, which says what conversion it is: with `resume` the shards that are
// there are kept and the rest is made, to the same bytes.
#pragma once

#include "convert/config_text.h"
#include "core/team.h"

#include <memory>
#include <string>
#include <vector>

namespace finback::convert {

struct Options {
  std::string in, out;
  Target target = Target::bf16;
  std::uint64_t shard_bytes = kShardBytes;
  bool resume = false;
};

class Conversion {
 public:
  // Opens the folder and plans; writes nothing. Throws core::Error: usage for a model that finback does not know or an output that is,
  // holds or lies in the input; bad_input for tensors that are not what config.json says, io.
  explicit Conversion(const Options& options);

  // What would be written: tensors and bytes of each type, shards, files copied.
  std::string describe() const;
  // Writes it, and returns what was done in a line or two. Throws Error(usage) if OUT is there already, or OUT.tmp without
  // `resume`; Error(bad_input), naming the tensor, for values that are NaN or infinite and for scales out of range, after which OUT.tmp
  // is removed; Error(io), after which it stays and `resume` goes on.
  std::string run(core::Team& team);

 private:
  enum class State { fresh, going_on, written, done };
  State prepare() const;
  void check_space() const;
  void write(core::Team& team);
  void write_shards(core::Team& team);
  void write_records();
  bool quantises() const;
  bool is_whole(const std::string& folder) const;
  std::string journal() const;
  std::string temporary(std::string_view name = {}) const;  // a path in OUT.tmp

  Options options_;
  boost::json::object config_json_;
  model::ModelConfig config_;
  model::ParameterList list_;
  std::unique_ptr<formats::ModelFolder> folder_;
  std::unique_ptr<FolderSource> source_;
  std::unique_ptr<Record> record_;  // of the FP8 folder that the input once was, if it is there
  bool from_fp8_ = false;
  Plan plan_;
  std::string config_text_;
  std::vector<std::string> copied_;  // files beside the model, relative to the folders
  std::string summary_;
};

}  // namespace finback::convert
