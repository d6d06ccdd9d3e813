// The list of files that belong together, with what each must hold: the last file of a checkpoint to be written, and the
// one that `finback verify` reads. A folder whose manifest agrees is whole; a flipped bit is found and named.
//
//   Manifest m;
//   m.info["step"] = 200;                                  // whatever the writer wants to find again
//   m.add(writer.commit());                                // a safetensors file, hashed while it was written
//   m.add_file(folder, "config.json");                     // any other file, hashed as it lies there
//   m.write(folder + "/train_state/manifest.json");
//   …
//   Manifest::read(folder + "/train_state/manifest.json").verify(folder);      // empty: whole
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace finback::formats {

struct TensorSum {
  std::string name;
  std::uint64_t begin = 0, bytes = 0;  // where its data lies in the file
  std::uint64_t xxh3 = 0;              // XXH3-64 of these bytes
};

struct FileSum {
  std::string name;  // relative to the folder, "/" between its parts
  std::uint64_t bytes = 0;
  std::string xxh3;  // XXH3-128 of the whole file, 32 hexadecimal digits
  std::vector<TensorSum> tensors;
};

// Where a checkpoint keeps its manifest.
inline constexpr std::string_view kManifestPath = "train_state/manifest.json";

class Manifest {
 public:
  boost::json::object info;

  void add(FileSum file) { files_.push_back(std::move(file)); }
  // Reads and hashes folder/name; tensor by tensor if its name ends in .safetensors.
  void add_file(const std::string& folder, const std::string& name);
  const std::vector<FileSum>& files() const { return files_; }

  // Atomic. The manifest holds a checksum of itself.
  void write(const std::string& path) const;
  // Throws Error(io) or Error(bad_input), also when its own checksum is wrong.
  static Manifest read(const std::string& path);
  // Everything that is not as written, one line each: a missing file, another size, "FILE: tensor NAME differs".
  // Files whose names begin with `except` are passed over.
  std::vector<std::string> verify(const std::string& folder, std::string_view except = {}) const;

 private:
  std::vector<FileSum> files_;
};

}  // namespace finback::formats
