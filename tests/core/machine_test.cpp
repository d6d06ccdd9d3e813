#include "core/machine.h"

#include <gtest/gtest.h>

#include <thread>

using finback::core::Machine;
using finback::core::this_machine;

TEST(Machine, SaysWhatThisProcessMayUse) {
  const Machine m = this_machine();
  EXPECT_GE(m.cores, 1);
  EXPECT_LE(m.cores, static_cast<int>(std::thread::hardware_concurrency()));
  EXPECT_GT(m.available_bytes, 0);
  EXPECT_LE(m.available_bytes, m.memory_bytes);
  EXPECT_GE(m.last_cache_bytes, 0);
  EXPECT_LT(m.last_cache_bytes, m.memory_bytes);
  EXPECT_TRUE(m.huge_pages.empty() || m.huge_pages == "always" || m.huge_pages == "madvise" || m.huge_pages == "never") << m.huge_pages;
}
