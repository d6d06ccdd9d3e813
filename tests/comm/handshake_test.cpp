#include "comm/handshake.h"

#include "comm/threads.h"

#include <gtest/gtest.h>

namespace finback::comm {
namespace {

std::string error_of(int ranks, const std::function<std::vector<Field>(int rank)>& fields) {
  try {
    run_threads(ranks, {.timeout = 30}, [&](Communicator& c) { handshake(c, fields(c.rank())); });
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::Exit::distributed);
    return e.what();
  }
  return "no error";
}

TEST(Handshake, TheRankAndTheFieldAreNamed) {
  const Field build = this_build();
  EXPECT_EQ(build.value.size(), 16u);
  EXPECT_EQ(error_of(4, [&](int) { return std::vector<Field>{build, {"tokenizer", "aa"}}; }), "no error");
  for (int other = 0; other < 4; ++other) {
    const std::string text = error_of(4, [&](int rank) {
      return std::vector<Field>{build, {"tokenizer", rank == other ? "bb" : "aa"}, {"data", "cc"}};
    });
    EXPECT_EQ(text.find(fmt::format("rank {} on ", other)), 0u) << text;
    EXPECT_NE(text.find("differs in 'tokenizer', 'bb' where others have 'aa', start all ranks"), std::string::npos) << text;
    EXPECT_EQ(text.find(", rank "), std::string::npos) << text;
  }
}

TEST(Handshake, AnotherListOfFields) {
  EXPECT_NE(error_of(3,
                     [](int rank) {
                       return std::vector<Field>(rank == 1 ? 2 : 1, {"config", "x"});
                     })
                .find("differs in 'number of fields', '2' where others have '1'"),
            std::string::npos);
  EXPECT_NE(error_of(3,
                     [](int rank) {
                       return std::vector<Field>{{rank == 1 ? "config" : "data", "x"}};
                     })
                .find("compares 'config' where others compare 'data'"),
            std::string::npos);
}

}  // namespace
}  // namespace finback::comm
