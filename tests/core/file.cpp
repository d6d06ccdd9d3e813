#include "core/file.h"

#include "core/error.h"
#include "tests/formats/temp_folder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

namespace finback::core {
namespace {

namespace fs = std::filesystem;

class File : public ::testing::Test {
 protected:
  ~File() override { set_fault(""); }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator{}));
  }
  std::string text() const { return read_file(path_, 1 << 20); }

  // Runs `body` in a child process and gives how it ended.
  static int status_of_child(const std::function<void()>& body) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      try {
        body();
      } catch (...) {
        ::_exit(9);
      }
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return status;
  }

  finback::testing::TempFolder folder_;
  std::string path_ = folder_ / "file";
};

int code_of(const std::function<void()>& body) {
  try {
    body();
    return 0;
  } catch (const Error& e) {
    return static_cast<int>(e.code());
  }
}

TEST_F(File, AnAtomicFileAppearsWholeOrNotAtAll) {
  {
    AtomicFile f(path_);
    f.write("half");
    EXPECT_FALSE(exists(path_));
  }
  EXPECT_EQ(files(), 0u) << "no temporary file is left";
  write_file_atomic(path_, "one");
  {
    AtomicFile f(path_);
    f.write(std::string(300 << 10, 'x'));  // larger than the buffer
    f.write("y");
    EXPECT_EQ(text(), "one");
    f.commit();
  }
  EXPECT_EQ(text(), std::string(300 << 10, 'x') + "y");
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(code_of([&] { write_file_atomic(folder_ / "absent/file", "x"); }), 4);
}

TEST_F(File, PiecesMayBeWrittenInAnyOrder) {
  for (const char* action : {"", "write:1:short", "write:2:eintr"}) {
    set_fault(action);
    AtomicFile f(path_);
    f.write_at("world", 5, 6);
    f.write_at("hello ", 6, 0);
    set_fault("");
    f.commit();
    EXPECT_EQ(text(), "hello world") << action;
  }
  set_fault("write:1:enospc");
  EXPECT_EQ(code_of([&] { AtomicFile(path_).write_at("x", 1, 0); }), 4);
  set_fault("");
  EXPECT_EQ(text(), "hello world");
}

TEST_F(File, ACopyHoldsTheSameAndFollowsLinks) {
  const std::string large(3 << 20, 'z');
  write_file_atomic(path_, large);
  fs::create_symlink(path_, folder_ / "link");
  copy_file_atomic(folder_ / "link", folder_ / "copy");
  EXPECT_TRUE(read_file(folder_ / "copy", 1 << 30) == large);
  EXPECT_FALSE(fs::is_symlink(folder_ / "copy"));
  EXPECT_EQ(code_of([&] { copy_file_atomic(folder_ / "absent", folder_ / "other"); }), 4);
  EXPECT_EQ(files(), 3u);
}

// The loop that every writer is tested with: the n-th call fails, for n = 1, 2, … until a clean pass.
TEST_F(File, EveryFailingCallLeavesTheOldFileAndIsReported) {
  for (const char* action : {"eio", "enospc"}) {
    write_file_atomic(path_, "old");
    int n = 1;
    for (;; ++n) {
      ASSERT_LT(n, 20);
      set_fault(fmt::format("any:{}:{}", n, action));
      const int code = code_of([&] { write_file_atomic(path_, "new"); });
      set_fault("");
      if (code == 0) break;
      EXPECT_EQ(code, 4);
      // The last call flushes the folder after the rename: the new file is whole by then.
      EXPECT_TRUE(text() == "old" || text() == "new") << text();
      EXPECT_EQ(files(), 1u);
    }
    EXPECT_GT(n, 4) << "open, write, fsync, rename and the folder's fsync";
    EXPECT_EQ(text(), "new");
  }
}

TEST_F(File, AKillAtAnyCallLeavesOldOrNew) {
  int killed = 0;
  for (int n = 1;; ++n) {
    ASSERT_LT(n, 20);
    write_file_atomic(path_, "old");
    const int status = status_of_child([&] {
      set_fault(fmt::format("any:{}:kill", n));
      write_file_atomic(path_, "new");
    });
    EXPECT_TRUE(text() == "old" || text() == "new") << text();
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      EXPECT_EQ(text(), "new");
      break;
    }
    EXPECT_EQ(WTERMSIG(status), SIGKILL);
    ++killed;
  }
  EXPECT_EQ(killed, 5);
}

TEST_F(File, ShortWritesAndInterruptionsAreFinished) {
  for (const char* action : {"short", "eintr"}) {
    set_fault(fmt::format("write:1:{}", action));
    write_file_atomic(path_, "0123456789");
    set_fault("");
    EXPECT_EQ(text(), "0123456789");
  }
}

TEST_F(File, FaultsAreCountedByKindAndMalformedOnesRefused) {
  set_fault("rename:1:eio");
  EXPECT_EQ(code_of([&] { write_file_atomic(path_, "x"); }), 4);
  EXPECT_EQ(counted_calls(), 4u);
  EXPECT_EQ(code_of([&] { write_file_atomic(path_, "x"); }), 0) << "only the first rename fails";
  for (const char* bad : {"write", "write:1", "write:1:explode"}) EXPECT_EQ(code_of([&] { set_fault(bad); }), 2) << bad;
}

TEST_F(File, AppendsLineByLine) {
  {
    AppendFile f(path_);
    f.append("a\n");
    f.append("b\n");
  }
  AppendFile(path_).append("c\n");
  EXPECT_EQ(text(), "a\nb\nc\n");
  AppendFile(path_, /*truncate=*/true).append("d\n");
  EXPECT_EQ(text(), "d\n");
}

TEST_F(File, ReadsAreBoundedAndAnywhere) {
  write_file_atomic(path_, "0123456789");
  EXPECT_EQ(code_of([&] { read_file(path_, 9); }), 3);
  EXPECT_EQ(code_of([&] { read_file(folder_ / "absent", 9); }), 4);
  EXPECT_EQ(code_of([&] { read_file(folder_.path(), 9); }), 4);
  const InputFile f(path_);
  char three[3];
  f.read(three, 3, 4);
  EXPECT_EQ(std::string_view(three, 3), "456");
  EXPECT_EQ(code_of([&] { f.read(three, 3, 8); }), 4);
  EXPECT_EQ(code_of([&] { f.read(three, 3, ~0ull); }), 4);
  EXPECT_EQ(code_of([&] { InputFile g(folder_.path()); }), 4);
  ASSERT_EQ(::mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  EXPECT_EQ(code_of([&] { InputFile g(folder_ / "fifo"); }), 4) << "and does not wait for a writer";
}

TEST_F(File, AMappingSeesThatItsFileChanged) {
  write_file_atomic(path_, "0123456789");
  const MappedFile m(path_);
  EXPECT_EQ(m.text(), "0123456789");
  EXPECT_NO_THROW(m.check_unchanged());
  fs::resize_file(path_, 3);
  EXPECT_EQ(code_of([&] { m.check_unchanged(); }), 4);
  write_file_atomic(path_, "");
  EXPECT_TRUE(MappedFile(path_).text().empty());
  EXPECT_EQ(code_of([&] { MappedFile g(folder_.path()); }), 4);
  EXPECT_EQ(code_of([&] { MappedFile g(folder_ / "absent"); }), 4);
}

}  // namespace
}  // namespace finback::core
