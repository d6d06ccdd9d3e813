// Any bytes as the model.safetensors.index.json of a folder of two shards, whose tensors are a, b and c; nothing outside the folder
// may be opened.
#include "formats/hf_folder.h"
#include "tests/fuzz/fuzz.h"

namespace {

void put_shard(const std::string& path, std::initializer_list<const char*> names) {
  std::vector<finback::formats::SafetensorsWriter::Entry> entries;
  for (const char* name : names) entries.push_back({name, finback::core::DType::u8, {1}});
  finback::formats::SafetensorsWriter writer(path, entries);
  for (std::size_t i = 0; i < names.size(); ++i) writer.write("x", 1);
  writer.commit();
}

const std::string& model() {
  static const std::string path = [] {
    const std::string p = finback::fuzz::folder() + "/model";
    std::filesystem::create_directories(p);
    put_shard(p + "/1.safetensors", {"a", "b"});
    put_shard(p + "/2.safetensors", {"c"});
    put_shard(finback::fuzz::folder() + "/outside.safetensors", {"d"});
    return p;
  }();
  return path;
}

}  // namespace

FUZZ(input) {
  const std::string& path = model();
  finback::fuzz::put("model/model.safetensors.index.json", input);
  const finback::formats::ModelFolder folder(path);
  for (const auto& file : folder.files()) FB_CHECK(file->path().starts_with(path + "/") && file->find("d") == nullptr, "{}", file->path());
}
