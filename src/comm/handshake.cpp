#include "comm/handshake.h"

#include "core/file.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace finback::comm {
namespace {

struct Entry {
  char name[32] = {}, value[96] = {};

  explicit Entry(const Field& f) {
    std::memcpy(name, f.name.data(), std::min(f.name.size(), sizeof name - 1));
    std::memcpy(value, f.value.data(), std::min(f.value.size(), sizeof value - 1));
  }
  Entry() = default;
  bool operator==(const Entry& o) const { return std::memcmp(this, &o, sizeof o) == 0; }
};

core::Error differs(std::string_view what, std::string_view where) {
  return {core::Exit::distributed, what, where, "start all ranks with the same program, files and options"};
}

// The rank whose entry most ranks have, the lowest of them; rank 0 where none has a majority.
int usual(std::span<const Entry> entries) {
  for (std::size_t r = 0; r < entries.size(); ++r)
    if (2 * static_cast<std::size_t>(std::count(entries.begin(), entries.end(), entries[r])) > entries.size()) return static_cast<int>(r);
  return 0;
}

}  // namespace

Field this_build() {
  const core::MappedFile program("/proc/self/exe");
  return {"build", fmt::format("{:016x}", XXH3_64bits(program.bytes().data(), program.bytes().size()))};
}

void handshake(Communicator& c, std::span<const Field> fields) {
  const auto ranks = static_cast<std::size_t>(c.size());
  const auto gather = [&](const Entry& mine) {
    std::vector<Entry> all(ranks);
    c.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
    return all;
  };
  const auto compare = [&](const Field& field) {
    const std::vector<Entry> all = gather(Entry(field));
    const Entry& most = all[static_cast<std::size_t>(usual(all))];
    std::string others;
    const Entry* first = nullptr;
    for (std::size_t r = 0; r < ranks; ++r) {
      if (all[r] == most) continue;
      if (first == nullptr) first = &all[r];
      others += fmt::format("{}{}", others.empty() ? "" : ", ", c.name(static_cast<int>(r)));
    }
    if (first == nullptr) return;
    if (std::strcmp(first->name, most.name) != 0)
      throw differs(fmt::format("{} compares '{}' where others compare '{}'", others, first->name, most.name), "at the start");
    throw differs(fmt::format("{} differs in '{}'", others, field.name),
                  fmt::format("'{}' where others have '{}'", first->value, most.value));
  };
  compare({"number of fields", fmt::format("{}", fields.size())});  // another build may have others
  for (const Field& f : fields) compare(f);
}

}  // namespace finback::comm
