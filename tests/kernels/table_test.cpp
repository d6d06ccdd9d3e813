// The choice of a table, and what each holds.
#include "core/error.h"
#include "kernels/kernels.h"

#include <gtest/gtest.h>

namespace finback::kernels {
namespace {

TEST(Table, EveryTableThatRunsIsComplete) {
  for (std::string_view isa : runnable()) {
    const std::string lines = coverage(by_name(isa));
    EXPECT_EQ(lines.find("missing"), std::string::npos) << isa << ":\n" << lines;
    EXPECT_EQ(by_name(isa).name, isa);
  }
}

TEST(Table, CoverageNamesTheTableThatAFunctionCameFrom) {
  const std::string reference_lines = coverage(reference());
  EXPECT_EQ(reference_lines.find("linear_forward reference\nlinear_slices reference\n"), 0u) << reference_lines;
  EXPECT_NE(coverage(by_name("portable")).find("\nadd portable\n"), std::string::npos);
}

TEST(Table, AnUnknownNameIsAUsersMistake) {
  try {
    by_name("mmx");
    FAIL();
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::Exit::usage);
    EXPECT_NE(std::string(e.what()).find("reference, portable"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace finback::kernels
