#include "comm/segments.h"

#include "comm/host.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace finback::comm {
namespace {

constexpr std::size_t kKeyBytes = 64;  // before the inbox

bool read_process(pid_t pid, std::uint64_t address, std::span<std::byte> to) {
  iovec here = {to.data(), to.size()}, there = {reinterpret_cast<void*>(static_cast<std::uintptr_t>(address)), to.size()};
  return ::process_vm_readv(pid, &here, 1, &there, 1, 0) == static_cast<ssize_t>(to.size());
}

}  // namespace

Segments::Segments(int ranks)
    : inboxes_(static_cast<std::size_t>(ranks)), processes_(static_cast<std::size_t>(ranks)), key_(new std::uint64_t) {
  if (::getrandom(key_.get(), sizeof *key_, 0) != sizeof *key_) throw core::io_error("get a random number", "getrandom");
  own_.push_back(create(kKeyBytes + Inbox::bytes(ranks)));
  Inbox::make(own_[0].bytes.data() + kKeyBytes, ranks);
  std::memcpy(own_[0].bytes.data(), key_.get(), sizeof *key_);
}

Segments::~Segments() {
  for (const Mapping& m : own_) {
    ::munmap(m.bytes.data(), m.bytes.size());
    ::close(m.fd);
  }
  for (const Process& p : processes_) {
    for (const auto& [number, m] : p.opened) ::munmap(m.bytes.data(), m.bytes.size());
    if (p.handle >= 0) ::close(p.handle);
  }
}

Segments::Mapping Segments::create(std::size_t bytes) {
  Mapping m;
  m.fd = ::memfd_create("finback", MFD_CLOEXEC);
  if (m.fd < 0) throw core::io_error("make shared memory", "memfd_create");
  void* at =
      ::ftruncate(m.fd, static_cast<off_t>(bytes)) == 0 ? ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0) : MAP_FAILED;
  if (at == MAP_FAILED) {
    const core::Error error =
        core::io_error(fmt::format("map {} bytes of shared memory", bytes), "memfd", "use a smaller model, micro_batch or seq_len");
    ::close(m.fd);
    throw error;
  }
  ::madvise(at, bytes, MADV_HUGEPAGE);
  m.bytes = {static_cast<std::byte*>(at), bytes};
  return m;
}

Segments::Card Segments::card() const {
  Card c;
  c.pid = ::getpid();
  c.segment = own_[0].fd;
  c.key = *key_;
  c.key_address = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(key_.get()));
  const std::string host = host_name();
  std::memcpy(c.host, host.data(), std::min(host.size(), sizeof c.host - 1));
  return c;
}

Segments::Access Segments::open(int rank, const Card& card) {
  Process& p = processes_[static_cast<std::size_t>(rank)];
  p.pid = card.pid;
  const std::span<std::byte> bytes = card.pid == ::getpid() && card.key == *key_ ? own_[0].bytes : map(rank, card.segment);
  // Elsewhere, the number may be another process's.
  if (bytes.size() != own_[0].bytes.size() || std::memcmp(bytes.data(), &card.key, sizeof card.key) != 0) return none;
  inboxes_[static_cast<std::size_t>(rank)] = Inbox(bytes.data() + kKeyBytes);
  p.handle = static_cast<int>(::syscall(SYS_pidfd_open, card.pid, 0));
  std::uint64_t key = 0;
  return read_process(card.pid, card.key_address, std::as_writable_bytes(std::span(&key, 1))) && key == card.key ? all : shared;
}

// Empty where it cannot be had.
std::span<std::byte> Segments::map(int rank, int segment) {
  Process& p = processes_[static_cast<std::size_t>(rank)];
  if (const auto known = p.opened.find(segment); known != p.opened.end()) return known->second.bytes;
  const int fd = ::open(fmt::format("/proc/{}/fd/{}", p.pid, segment).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return {};
  struct stat status;
  std::span<std::byte> bytes;
  if (::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    const auto size = static_cast<std::size_t>(status.st_size);
    if (void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); at != MAP_FAILED)
      bytes = {static_cast<std::byte*>(at), size};
  }
  ::close(fd);
  if (!bytes.empty()) p.opened[segment] = {-1, bytes};
  return bytes;
}

Place Segments::place(std::span<const std::byte> bytes) {
  for (const Mapping& m : own_)
    if (bytes.data() >= m.bytes.data() && bytes.data() + bytes.size() <= m.bytes.data() + m.bytes.size())
      return {m.fd, 0, static_cast<std::uint64_t>(bytes.data() - m.bytes.data())};
  if (readable_) return {-1, 0, static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(bytes.data()))};
  auto free = std::find_if(staging_.begin(), staging_.end(), [&](const Staging& s) { return !s.used && s.bytes.size() >= bytes.size(); });
  if (free == staging_.end()) {
    own_.push_back(create(bytes.size()));
    staging_.push_back({own_.back().fd, own_.back().bytes, false});
    free = staging_.end() - 1;
  }
  free->used = true;
  std::memcpy(free->bytes.data(), bytes.data(), bytes.size());
  return {free->segment, 0, 0};
}

void Segments::release(const Place& place) {
  for (Staging& s : staging_)
    if (s.segment == place.segment) s.used = false;
}

void Segments::copy(int from, const Place& place, std::int64_t begin, std::span<std::byte> to) {
  const Process& p = processes_[static_cast<std::size_t>(from)];
  const std::uint64_t offset = place.offset + static_cast<std::uint64_t>(begin);
  if (place.segment < 0) {
    if (read_process(p.pid, offset, to)) return;
  } else if (p.pid == ::getpid()) {
    for (const Mapping& m : own_)
      if (m.fd == place.segment) return static_cast<void>(std::memcpy(to.data(), m.bytes.data() + offset, to.size()));
  } else if (const std::span<std::byte> bytes = map(from, place.segment); offset <= bytes.size() && to.size() <= bytes.size() - offset) {
    std::memcpy(to.data(), bytes.data() + offset, to.size());
    return;
  }
  throw core::Error(core::Exit::distributed, fmt::format("cannot read the memory of rank {}", from), "the process may have died",
                    "look for its last words; continue with --resume from the last checkpoint");
}

std::span<std::byte> Segments::shared_memory(std::int64_t bytes) {
  own_.push_back(create(static_cast<std::size_t>(bytes)));
  return own_.back().bytes;
}

bool Segments::alive(int rank) {
  pollfd p = {processes_[static_cast<std::size_t>(rank)].handle, POLLIN, 0};
  return p.fd < 0 || ::poll(&p, 1, 0) != 1;
}

}  // namespace finback::comm
