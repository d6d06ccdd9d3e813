#include "core/file.h"

#include "core/error.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <utility>

namespace finback::core {
namespace {

// ---- the fault injector

enum class Action { none, kill, eio, enospc, short_write, eintr };

struct Fault {
  std::string call;
  std::uint64_t n = 0;
  Action action = Action::none;
};

std::mutex fault_mutex;
Fault fault;
std::atomic<std::uint64_t> calls_of_kind{0}, calls_of_all{0};
std::once_flag fault_from_environment;

void parse_fault(std::string_view text) {
  std::lock_guard lock(fault_mutex);
  fault = {};
  calls_of_kind = 0;
  calls_of_all = 0;
  if (text.empty()) return;
  const auto a = text.find(':'), b = text.rfind(':');
  if (a == std::string_view::npos || a == b)
    throw Error(Exit::usage, "malformed fault", fmt::format("FINBACK_FAULT='{}'", text), "write CALL:N:ACTION");
  const std::string_view action = text.substr(b + 1);
  fault.call = text.substr(0, a);
  fault.n = std::strtoull(std::string(text.substr(a + 1, b - a - 1)).c_str(), nullptr, 10);
  if (action == "kill") fault.action = Action::kill;
  else if (action == "eio") fault.action = Action::eio;
  else if (action == "enospc") fault.action = Action::enospc;
  else if (action == "short") fault.action = Action::short_write;
  else if (action == "eintr") fault.action = Action::eintr;
  else throw Error(Exit::usage, "unknown fault action", fmt::format("FINBACK_FAULT='{}'", text), "use kill, eio, enospc, short or eintr");
}

// What the next call of this kind shall suffer. Sets errno for the failing ones.
Action next_fault(std::string_view call) {
  std::call_once(fault_from_environment, [] {
    if (const char* text = std::getenv("FINBACK_FAULT")) parse_fault(text);
  });
  ++calls_of_all;
  if (fault.action == Action::none || (fault.call != "any" && fault.call != call)) return Action::none;
  if (++calls_of_kind != fault.n) return Action::none;
  switch (fault.action) {
    case Action::kill:
      ::kill(::getpid(), SIGKILL);
      break;
    case Action::eio:
      errno = EIO;
      break;
    case Action::enospc:
      errno = ENOSPC;
      break;
    case Action::eintr:
      errno = EINTR;
      break;
    default:
      break;
  }
  return fault.action;
}

bool fails(Action a) { return a == Action::eio || a == Action::enospc; }

// write(2) or pwrite(2), until all is written.
template <class Write>
void write_pieces(const void* data, std::size_t size, const std::string& path, Write&& write) {
  const char* p = static_cast<const char*>(data);
  while (size > 0) {
    const Action a = next_fault("write");
    if (fails(a)) throw io_error("write", path);
    if (a == Action::eintr) continue;
    const ssize_t n = write(p, a == Action::short_write ? (size + 1) / 2 : size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw io_error("write", path);
    p += n;
    size -= static_cast<std::size_t>(n);
  }
}

std::string parent_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

void set_fault(std::string_view specification) {
  std::call_once(fault_from_environment, [] {});
  parse_fault(specification);
}

std::uint64_t counted_calls() { return calls_of_all; }

namespace sys {

int open_for_write(const std::string& path, bool append, bool truncate) {
  if (fails(next_fault("open"))) throw io_error("create file", path);
  const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : 0) | (truncate ? O_TRUNC : 0);
  int fd;
  do fd = ::open(path.c_str(), flags, 0644);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) throw io_error("create file", path);
  return fd;
}

void write_all(int fd, const void* data, std::size_t size, const std::string& path) {
  write_pieces(data, size, path, [&](const char* p, std::size_t n) { return ::write(fd, p, n); });
}

void write_all_at(int fd, const void* data, std::size_t size, std::uint64_t offset, const std::string& path) {
  const char* begin = static_cast<const char*>(data);
  write_pieces(data, size, path, [&](const char* p, std::size_t n) {
    return ::pwrite(fd, p, n, static_cast<off_t>(offset + static_cast<std::uint64_t>(p - begin)));
  });
}

void sync_file(int fd, const std::string& path) {
  if (fails(next_fault("fsync")) || ::fsync(fd) != 0) throw io_error("flush to disk", path);
}

void sync_directory(const std::string& path) {
  if (fails(next_fault("fsync"))) throw io_error("flush folder to disk", path);
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw io_error("open folder", path);
  const int rc = ::fsync(fd);
  const int saved = errno;
  ::close(fd);
  errno = saved;
  if (rc != 0 && errno != EINVAL) throw io_error("flush folder to disk", path);
}

void rename(const std::string& from, const std::string& to) {
  if (fails(next_fault("rename")) || ::rename(from.c_str(), to.c_str()) != 0) throw io_error("rename to", to);
}

void remove_tree(const std::string& path) {
  std::error_code ec;
  std::filesystem::remove_all(path, ec);
  if (ec) throw Error(Exit::io, fmt::format("cannot remove: {}", ec.message()), path, "check the permissions");
}

}  // namespace sys

MappedFile::MappedFile(const std::string& path) : path_(path) {
  do fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) throw io_error("open", path, "check the path and the permissions");
  struct stat st {};
  if (::fstat(fd_, &st) != 0 || !S_ISREG(st.st_mode)) {
    ::close(fd_);
    throw Error(Exit::io, "not a regular file", path, "give the path of a file");
  }
  size_ = static_cast<std::size_t>(st.st_size);
  if (size_ == 0) return;
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_, 0);
  if (p == MAP_FAILED) {
    ::close(fd_);
    throw io_error("map", path);
  }
  data_ = static_cast<const std::byte*>(p);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) ::close(fd_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(fd_, other.fd_);
  return *this;
}

void MappedFile::check_unchanged() const {
  struct stat st {};
  if (::fstat(fd_, &st) != 0 || static_cast<std::size_t>(st.st_size) != size_)
    throw Error(Exit::io, "the file changed while it was read", path_, "wait until it is written completely and start again");
}

InputFile::InputFile(const std::string& path) : path_(path) {
  do fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not make us wait before it is refused
  while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) throw io_error("open", path, "check the path and the permissions");
  struct stat st {};
  if (::fstat(fd_, &st) != 0 || !S_ISREG(st.st_mode)) {
    ::close(fd_);
    throw Error(Exit::io, "not a regular file", path, "give the path of a file");
  }
  size_ = static_cast<std::uint64_t>(st.st_size);
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept : path_(std::move(other.path_)), size_(other.size_), fd_(std::exchange(other.fd_, -1)) {}

void InputFile::read(void* out, std::size_t size, std::uint64_t offset) const {
  char* p = static_cast<char*>(out);
  while (size > 0) {
    const ssize_t n = ::pread(fd_, p, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw io_error("read", path_, "check the disk");
    if (n == 0)
      throw Error(Exit::io, fmt::format("the file ends at byte {}, it had {} when it was opened", offset, size_), path_,
                  "wait until it is written completely and start again");
    p += n;
    offset += static_cast<std::uint64_t>(n);
    size -= static_cast<std::size_t>(n);
  }
}

std::string read_file(const std::string& path, std::uint64_t max_bytes) {
  int fd;
  do fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) throw io_error("open", path, "check the path and the permissions");
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int saved = errno;
      ::close(fd);
      errno = saved;
      throw io_error("read", path, "check that it is a readable file");
    }
    if (n == 0) break;
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > max_bytes) {
      ::close(fd);
      throw Error(Exit::bad_input, fmt::format("file is larger than {} bytes", max_bytes), path, "check that it is the right file");
    }
  }
  ::close(fd);
  return text;
}

bool exists(const std::string& path) {
  std::error_code ec;
  return std::filesystem::exists(path, ec);
}

std::uint64_t file_size(const std::string& path) {
  std::error_code ec;
  const auto n = std::filesystem::file_size(path, ec);
  if (ec) throw Error(Exit::io, fmt::format("cannot read the size: {}", ec.message()), path, "check the path");
  return n;
}

void make_directories(const std::string& path) {
  std::error_code ec;
  std::filesystem::create_directories(path, ec);
  if (ec) throw Error(Exit::io, fmt::format("cannot create folder: {}", ec.message()), path, "check the path and the permissions");
}

void require_space(const std::string& folder, std::uint64_t bytes) {
  std::error_code ec;
  const auto space = std::filesystem::space(folder, ec);
  if (!ec && space.available < bytes)
    throw Error(Exit::io, fmt::format("{} are to be written, and the disk has {} free", size_text(bytes), size_text(space.available)),
                folder, "make room, or choose another disk");
}

std::string size_text(std::uint64_t bytes) {
  const auto n = static_cast<double>(bytes);
  return n < 1e6 ? fmt::format("{:.1f} kB", n * 1e-3) : n < 1e9 ? fmt::format("{:.1f} MB", n * 1e-6) : fmt::format("{:.1f} GB", n * 1e-9);
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), temporary_(fmt::format("{}.tmp-{}", path_, ::getpid())) {
  fd_ = sys::open_for_write(temporary_, /*append=*/false, /*truncate=*/true);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, std::size_t size) {
  constexpr std::size_t kBuffer = 256 << 10;
  if (buffer_.size() + size > kBuffer) flush();
  if (size > kBuffer) sys::write_all(fd_, data, size, temporary_);
  else buffer_.append(static_cast<const char*>(data), size);
}

void AtomicFile::write_at(const void* data, std::size_t size, std::uint64_t offset) {
  constexpr std::uint64_t kStart = 32 << 20;
  sys::write_all_at(fd_, data, size, offset, temporary_);
  const std::uint64_t before = written_at_.fetch_add(size);
  if (before / kStart != (before + size) / kStart) ::sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE);  // a hint; commit() makes sure
}

void AtomicFile::flush() {
  sys::write_all(fd_, buffer_.data(), buffer_.size(), temporary_);
  buffer_.clear();
}

void AtomicFile::commit() {
  flush();
  sys::sync_file(fd_, temporary_);
  sys::rename(temporary_, path_);
  ::close(std::exchange(fd_, -1));
  sys::sync_directory(parent_of(path_));
}

void write_file_atomic(const std::string& path, std::string_view text) {
  AtomicFile f(path);
  f.write(text);
  f.commit();
}

void copy_file_atomic(const std::string& from, const std::string& to) {
  const InputFile in(from);
  AtomicFile out(to);
  std::string buffer(1 << 20, '\0');
  for (std::uint64_t at = 0; at < in.size(); at += buffer.size()) {
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), in.size() - at));
    in.read(buffer.data(), n, at);
    out.write(buffer.data(), n);
  }
  out.commit();
}

AppendFile::AppendFile(const std::string& path, bool truncate) : path_(path), fd_(sys::open_for_write(path, /*append=*/true, truncate)) {}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

void AppendFile::append(std::string_view text) { sys::write_all(fd_, text.data(), text.size(), path_); }

}  // namespace finback::core
