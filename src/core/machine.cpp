#include "core/machine.h"

#include "core/error.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

namespace finback::core {
namespace {

// The rest of the first line that starts with `key`, without the colon and the blanks around it.
std::string field(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, key.size(), key) == 0) {
      const std::size_t begin = line.find_first_not_of(": \t", key.size());
      return begin == std::string::npos ? std::string() : line.substr(begin);
    }
  return {};
}

std::int64_t kibibytes(const std::string& text) { return text.empty() ? 0 : std::stoll(text) * 1024; }

}  // namespace

Machine this_machine() {
  Machine m;
  m.cpu = field("/proc/cpuinfo", "model name");

  cpu_set_t mask;
  CPU_ZERO(&mask);
  m.cores = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : static_cast<int>(std::thread::hardware_concurrency());
  double quota = 0, period = 0;  // "max 100000" leaves quota unread
  if (std::ifstream("/sys/fs/cgroup/cpu.max") >> quota >> period && period > 0)
    m.cores = std::min(m.cores, static_cast<int>(quota / period + 0.999));
  m.cores = std::max(m.cores, 1);

  m.memory_bytes = kibibytes(field("/proc/meminfo", "MemTotal"));
  m.available_bytes = kibibytes(field("/proc/meminfo", "MemAvailable"));
  std::int64_t limit = 0, used = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit && std::ifstream("/sys/fs/cgroup/memory.current") >> used) {
    m.memory_bytes = std::min(m.memory_bytes, limit);
    m.available_bytes = std::clamp<std::int64_t>(limit - used, 0, m.available_bytes);
  }

  for (const int level : {_SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE})
    m.last_cache_bytes = std::max<std::int64_t>(m.last_cache_bytes, ::sysconf(level));

  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");  // "always [madvise] never"
  for (std::string word; file >> word;)
    if (word.front() == '[') m.huge_pages = word.substr(1, word.size() - 2);
  return m;
}

void require_memory(std::int64_t bytes, std::string_view what) {
  const std::int64_t available = this_machine().available_bytes;
  if (available > 0 && bytes > available)
    throw Error(Exit::usage,
                fmt::format("{:.2f} GiB of memory are needed and {:.2f} GiB are free", static_cast<double>(bytes) / 0x1p30,
                            static_cast<double>(available) / 0x1p30),
                what, "use a smaller model, batch or sequence, or a machine with more memory");
}

}  // namespace finback::core
