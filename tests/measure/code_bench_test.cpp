// Every function of codes has a case, and none is faster than a copy of as many bytes.
#include "measure/code_bench.h"

#include "core/error.h"

#include <gtest/gtest.h>

#include <set>

namespace finback::measure {
namespace {

TEST(CodeBench, MeasuresEveryFunctionBesideACopy) {
  const kernels::Table& table = kernels::best();
  std::set<std::string> names;
  for (const CodeSpeed& s : bench_codes(table, {.rows = {16, 130}, .cols = 520, .seconds = 0.01})) {
    names.insert(s.name);
    EXPECT_GE(s.repetitions, 5) << s.name;
    EXPECT_GT(s.elements_per_s, 0) << s.name;
    EXPECT_GT(s.share_of_copy, 0) << s.name;
    // From one byte read and two written an element, to four and one; scales add little but to the few rows of a column's tile.
    EXPECT_GT(s.gb_per_s, 1.9e-9 * s.elements_per_s) << s.name;
    EXPECT_LT(s.gb_per_s, 5.3e-9 * s.elements_per_s) << s.name;
  }
  const std::string all = kernels::coverage(table);
  for (std::size_t at = 0; at < all.size(); at = all.find('\n', at) + 1) {
    const std::string name = all.substr(at, all.find(' ', at) - at);
    if (name.find("quantize_") == std::string::npos && name.find("e5m6") == std::string::npos && name.find("logfmt") == std::string::npos)
      continue;
    EXPECT_EQ(names.erase(name), 1u) << name;
  }
  EXPECT_TRUE(names.empty());
}

TEST(CodeBench, ANameThatNoFunctionHoldsIsAUsersMistake) { EXPECT_THROW(bench_codes(kernels::best(), {.only = "softmax"}), core::Error); }

}  // namespace
}  // namespace finback::measure
