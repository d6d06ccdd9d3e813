// Files: mapped reads, bounded reads, atomic writes, and the fault injector that tests use to make the n-th system call
// of a kind fail. Every write of finback goes through this file, so that one loop over n covers them all.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace finback::core {

// A read-only mapping of a whole file. Only for files of ours or of the user's choosing that nobody truncates meanwhile;
// the size is checked again by check_unchanged().
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);  // throws Error(io)
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::string& path() const { return path_; }
  // Throws Error(io) if the file's size is no longer what was mapped (reading past a new end would be a SIGBUS).
  void check_unchanged() const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  int fd_ = -1;
};

// Reads anywhere in a file by pread(2): a file that another process truncates meanwhile is an Error(io), never a SIGBUS.
// May be shared by threads.
class InputFile {
 public:
  explicit InputFile(const std::string& path);  // throws Error(io); a folder or a device is refused
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;

  // All of `size` bytes at `offset`, or Error(io).
  void read(void* out, std::size_t size, std::uint64_t offset) const;
  std::uint64_t size() const { return size_; }  // when it was opened
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::uint64_t size_ = 0;
  int fd_ = -1;
};

// The whole file. Throws Error(io) if it cannot be read, Error(bad_input) if it is larger than `max_bytes`.
std::string read_file(const std::string& path, std::uint64_t max_bytes);

bool exists(const std::string& path);
std::uint64_t file_size(const std::string& path);
void make_directories(const std::string& path);
// Throws Error(io) with both sizes if the disk that holds a folder has less than `bytes` to give.
void require_space(const std::string& folder, std::uint64_t bytes);
std::string size_text(std::uint64_t bytes);  // "1.5 GB"

// A file being written, buffered. Nothing appears under `path` before commit(): bytes go to `path`.tmp-PID, then fsync,
// rename, fsync of the folder. Without commit() the temporary file is removed. Throws Error(io).
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  void write(const void* data, std::size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  // Straight to byte `offset`, by any number of threads at once, in any order; not mixed with write(). The disk starts on
  // what lies there now and then, so that commit() does not find all of a large file still to be flushed.
  void write_at(const void* data, std::size_t size, std::uint64_t offset);
  void commit();

 private:
  void flush();
  std::string path_, temporary_, buffer_;
  int fd_ = -1;
  std::atomic<std::uint64_t> written_at_{0};
};

void write_file_atomic(const std::string& path, std::string_view text);
// A copy under another name, atomic, in small pieces. Links are followed.
void copy_file_atomic(const std::string& from, const std::string& to);

// A file that grows line by line (metrics, logs). Each append is one write(2).
class AppendFile {
 public:
  explicit AppendFile(const std::string& path, bool truncate = false);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  void append(std::string_view text);

 private:
  std::string path_;
  int fd_ = -1;
};

// The system calls underneath, each counted by the fault injector. They retry EINTR and short writes and throw Error(io).
namespace sys {
int open_for_write(const std::string& path, bool append, bool truncate);
void write_all(int fd, const void* data, std::size_t size, const std::string& path);
void write_all_at(int fd, const void* data, std::size_t size, std::uint64_t offset, const std::string& path);
void sync_file(int fd, const std::string& path);
void sync_directory(const std::string& path);
void rename(const std::string& from, const std::string& to);
void remove_tree(const std::string& path);
}  // namespace sys

// FINBACK_FAULT="CALL:N:ACTION" makes the N-th (from 1) call of a kind misbehave. CALL: open, write, fsync, rename or
// any. ACTION: kill (SIGKILL to ourselves, before the call), eio, enospc, short (half of a write), eintr (once).
// Parsed at the first call; tests may set it directly. Returns how many counted calls were made so far.
void set_fault(std::string_view specification);
std::uint64_t counted_calls();

}  // namespace finback::core
