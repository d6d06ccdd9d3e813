#include "core/error.h"

#include "core/tensor.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace finback::core {
namespace {

TEST(Error, IsOneLineOfWhatWhereAndRemedy) {
  const Error e(Exit::bad_input, "header\nbroken", "file\x01.bin", "download it again");
  EXPECT_STREQ(e.what(), "header broken, file .bin, download it again");
  EXPECT_EQ(e.code(), Exit::bad_input);
  EXPECT_STREQ(Error(Exit::usage, "what", "", "").what(), "what");
  errno = ENOSPC;
  const Error io = io_error("write", "/x");
  EXPECT_EQ(io.code(), Exit::io);
  EXPECT_NE(std::string(io.what()).find("cannot write: No space left on device, /x"), std::string::npos) << io.what();
}

TEST(Error, ExitCodesAreTheDocumentedOnes) {
  const std::pair<Exit, int> codes[] = {{Exit::done, 0}, {Exit::failed, 1},  {Exit::usage, 2},       {Exit::bad_input, 3},
                                        {Exit::io, 4},   {Exit::numeric, 5}, {Exit::distributed, 6}, {Exit::stopped, 7}};
  for (const auto& [code, number] : codes) EXPECT_EQ(static_cast<int>(code), number);
}

TEST(CheckDeathTest, PrintsTheConditionAndItsValues) {
  const int rows = 3;
  EXPECT_DEATH(FB_CHECK(rows == 4, "rows {}", rows), "check failed: rows == 4 — rows 3");
  FB_CHECK(rows == 3);
}

TEST(MatDeathTest, AViewMayNotLeaveItsMatrix) {
  float data[12] = {};
  const Mat m = mat(data, DType::f32, 3, 4);
  EXPECT_EQ(m.row_range(1, 2).row<float>(0), data + 4);
  EXPECT_EQ(m.columns(1, 2).row<float>(1), data + 5);
  EXPECT_FALSE(m.columns(1, 2).contiguous());
  EXPECT_EQ(m.bytes(), 48);
  EXPECT_DEATH(m.row_range(2, 2), "rows 2\\+2 of 3");
  EXPECT_DEATH(m.columns(-1, 2), "columns -1\\+2 of 4");
  EXPECT_DEATH(ConstMat(m).columns(0, 5), "columns 0\\+5 of 4");
}

}  // namespace
}  // namespace finback::core
