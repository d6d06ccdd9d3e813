// Writes the shards of a plan: every weight is read, converted and written in blocks of rows that fit a cache, by all threads at once,
// each with a few MB of buffers. What is written does not depend on how many threads there are.
#pragma once

#include "convert/worker.h"

#include <functional>
#include <memory>
#include <vector>

namespace finback::convert {

// More do not make a disk faster, and the buffers of so many, at most 20 MB each, stay below 1.5 GB.
constexpr int kMaxThreads = 64;

class ShardWriter {
 public:
  // `record` (or null) has the scales that FP8 weights once had. The plan, the source, the record and the team must outlive this.
  ShardWriter(const Plan& plan, const Source& source, const Record* record, core::Team& team);

  struct Listener {
    std::function<void(double share, std::uint64_t bytes)> progress;  // now and then: share done, bytes read and written
    std::function<void(const std::vector<WeightError>&)> written;     // once, before the file appears under its name
  };
  // Writes one shard, atomically. `written` gets the errors of the weights whose codes were made. Throws Error(bad_input) naming the
  // tensor for NaN, infinity or scales out of range, Error(io).
  void write(const std::string& path, const Shard& shard, const Listener& listener);

 private:
  const Plan& plan_;
  core::Team& team_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace finback::convert
