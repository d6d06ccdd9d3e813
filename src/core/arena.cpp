#include "core/arena.h"

#include "core/error.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

namespace finback::core {
namespace {

constexpr std::int64_t kAlign = 64;
constexpr std::int64_t kHugePage = 2 << 20;

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

Arena::Arena(std::string name, std::int64_t bytes) : name_(std::move(name)), capacity_(round_up(bytes, kAlign)) {
  FB_CHECK(bytes >= 0, "arena {} of {} bytes", name_, bytes);
  if (capacity_ == 0) return;
  // One huge page more than asked for, so that the base can be aligned to one.
  mapped_ = round_up(capacity_, kHugePage) + kHugePage;
  void* p = mmap(nullptr, static_cast<std::size_t>(mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    throw Error(Exit::failed, fmt::format("cannot reserve {} KiB of memory", capacity_ >> 10), fmt::format("arena '{}'", name_),
                "use a smaller model, micro_batch or seq_len");
  auto address = reinterpret_cast<std::uintptr_t>(p);
  auto aligned = (address + kHugePage - 1) / kHugePage * kHugePage;
  const auto skipped = static_cast<std::int64_t>(aligned - address);
  if (skipped > 0) munmap(p, static_cast<std::size_t>(skipped));
  base_ = reinterpret_cast<std::byte*>(aligned);
  mapped_ -= skipped;
  madvise(base_, static_cast<std::size_t>(mapped_), MADV_HUGEPAGE);
}

Arena Arena::growing(std::string name, std::int64_t bytes) {
  Arena a(std::move(name), bytes);
  a.growing_ = true;
  return a;
}

Arena Arena::counting() {
  Arena a;
  a.name_ = "counting";
  a.counting_ = true;
  return a;
}

Arena::Arena(Arena&& other) noexcept
    : name_(std::move(other.name_)),
      base_(std::exchange(other.base_, nullptr)),
      capacity_(other.capacity_),
      used_(other.used_),
      high_water_(other.high_water_),
      mapped_(std::exchange(other.mapped_, 0)),
      counting_(other.counting_),
      growing_(other.growing_),
      further_(std::move(other.further_)) {}

Arena::~Arena() {
  if (base_) munmap(base_, static_cast<std::size_t>(mapped_));
}

void* Arena::take(std::int64_t bytes) {
  FB_CHECK(bytes >= 0, "arena {}: {} bytes", name_, bytes);
  const std::int64_t begin = used_;
  used_ += round_up(bytes, kAlign);
  high_water_ = std::max(high_water_, used_);
  if (counting_) return nullptr;
  if (growing_ && used_ > capacity_) {
    used_ = begin;
    return take_further(round_up(bytes, kAlign));
  }
  FB_CHECK(used_ <= capacity_, "arena '{}' is full: {} of {} bytes", name_, used_, capacity_);
  return base_ + begin;
}

// Nothing lies across two pieces: what a piece has left is passed over.
void* Arena::take_further(std::int64_t bytes) {
  std::int64_t begin = capacity_;
  for (std::size_t i = 0;; begin += further_[i++].capacity_) {
    if (i == further_.size()) further_.emplace_back(name_ + ", spill", std::max(bytes, capacity_ / 2));
    const std::int64_t at = std::max(used_, begin);
    if (at + bytes > begin + further_[i].capacity_) continue;
    used_ = at + bytes;
    high_water_ = std::max(high_water_, used_);
    return further_[i].base_ + (at - begin);
  }
}

std::int64_t Arena::spilled() const {
  std::int64_t sum = 0;
  for (const Arena& a : further_) sum += a.capacity_;
  return sum;
}

}  // namespace finback::core
