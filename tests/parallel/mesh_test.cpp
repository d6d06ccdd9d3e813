#include "parallel/mesh.h"

#include "core/error.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

namespace finback::parallel {
namespace {

using Ranks = std::vector<int>;

// DeepSeek-V3's own: 2,048 GPUs, 8 a node, PP 16 × EP 64, two expert groups a stage, each on 8 nodes.
TEST(Mesh, ThePublishedLayout) {
  const Mesh mesh({.pp = 16, .dp = 128, .ep = 64, .ranks_per_node = 8});
  EXPECT_EQ(mesh.world(), 2048);
  EXPECT_EQ(mesh.nodes(), 256);
  const int rank = mesh.rank_at(3, 70);
  const Coordinates c = mesh.at(rank);
  EXPECT_EQ(c.pp, 3);
  EXPECT_EQ(c.dp, 70);
  EXPECT_EQ(c.ep, 6);
  EXPECT_EQ(c.ep_group, 1);
  std::set<int> nodes;
  for (const int r : mesh.ep_group(rank)) nodes.insert(mesh.node(r));
  EXPECT_EQ(nodes.size(), 8u);
  EXPECT_EQ(mesh.expert_dp_group(rank), (Ranks{3 * 128 + 6, 3 * 128 + 70}));
  EXPECT_EQ(mesh.dp_group(rank).size(), 128u);
}

TEST(Mesh, GroupsOfASmallOne) {
  const Mesh mesh({.pp = 2, .dp = 4, .ep = 2, .ranks_per_node = 4});
  EXPECT_EQ(mesh.dp_group(6), (Ranks{4, 5, 6, 7}));
  EXPECT_EQ(mesh.ep_group(6), (Ranks{6, 7}));
  EXPECT_EQ(mesh.expert_dp_group(6), (Ranks{4, 6}));
  EXPECT_EQ(mesh.pipeline(6), (Ranks{2, 6}));
  EXPECT_EQ(mesh.previous(6), 2);
  EXPECT_EQ(mesh.next(2), 6);
  EXPECT_FALSE(mesh.next(6));
  EXPECT_FALSE(mesh.previous(2));
  EXPECT_EQ(mesh.node(6), 1);
  EXPECT_EQ(mesh.index_in_node(6), 2);
  EXPECT_EQ(Mesh({.pp = 2, .dp = 4}).nodes(), 1);
}

// Whatever the layout, each kind of group cuts the world into parts of one size, and its members agree on it.
TEST(Mesh, GroupsCutTheWorld) {
  int layouts = 0;
  for (const int pp : {1, 2, 3, 8})
    for (const int dp : {1, 2, 4, 6, 12})
      for (int ep = 1; ep <= dp; ++ep) {
        if (dp % ep != 0) continue;
        ++layouts;
        const Mesh mesh({.pp = pp, .dp = dp, .ep = ep});
        const auto cuts = [&](Ranks (Mesh::*group)(int) const, int size) {
          for (int r = 0; r < mesh.world(); ++r) {
            const Ranks members = (mesh.*group)(r);
            ASSERT_EQ(members.size(), static_cast<std::size_t>(size));
            ASSERT_TRUE(std::is_sorted(members.begin(), members.end()));
            ASSERT_NE(std::find(members.begin(), members.end(), r), members.end());
            for (const int other : members) ASSERT_EQ((mesh.*group)(other), members);
          }
        };
        cuts(&Mesh::dp_group, dp);
        cuts(&Mesh::ep_group, ep);
        cuts(&Mesh::expert_dp_group, dp / ep);
        cuts(&Mesh::pipeline, pp);
        for (int r = 0; r < mesh.world(); ++r) {
          const Coordinates c = mesh.at(r);
          ASSERT_EQ(mesh.rank_at(c.pp, c.dp), r);
          ASSERT_EQ(c.ep_group * ep + c.ep, c.dp);
          ASSERT_EQ(mesh.ep_group(r)[static_cast<std::size_t>(c.ep)], r);
          ASSERT_EQ(mesh.pipeline(r)[static_cast<std::size_t>(c.pp)], r);
          ASSERT_EQ(mesh.next(r).has_value(), c.pp + 1 < pp);
          if (const auto next = mesh.next(r)) {
            ASSERT_EQ(mesh.previous(*next), r);
          }
        }
      }
  EXPECT_EQ(layouts, 4 * (1 + 2 + 3 + 4 + 6));
}

TEST(Mesh, RefusalsNameTheKeysAndARemedy) {
  const auto refuses = [](auto&& make, std::initializer_list<const char*> parts) {
    try {
      make();
      ADD_FAILURE() << *parts.begin();
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::Exit::usage);
      for (const char* part : parts) EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  refuses([] { Mesh({.pp = 0}); }, {"parallel.pp = 0", "parallel.dp", "parallel.ep"});
  refuses([] { Mesh({.pp = 2, .dp = 4, .ep = 3}); }, {"parallel.ep = 3", "set parallel.ep to a divisor of parallel.dp"});
  refuses([] { Mesh({.pp = 1 << 20, .dp = 1 << 20}); }, {"more than 1048576 ranks"});
  refuses([] { Mesh({.pp = 3, .dp = 2, .ranks_per_node = 4}); }, {"divides parallel.pp × parallel.dp = 6"});
  refuses([] { Mesh({.pp = 2, .dp = 6, .ep = 6, .ranks_per_node = 4}); }, {"parallel.ep = 6", "4 ranks a node"});
  const Mesh mesh({.pp = 2, .dp = 4, .ep = 4});
  EXPECT_NO_THROW(mesh.require_world(8));
  refuses([&] { mesh.require_world(6); }, {"has 8 ranks and 6 were started", "parallel.pp = 2 × parallel.dp = 4", "start 8 (--ranks 8"});
  EXPECT_NO_THROW(mesh.require_experts(64));
  refuses([&] { mesh.require_experts(6); }, {"parallel.ep = 4", "divisor of n_routed_experts"});
  refuses([&] { mesh.require_experts(0); }, {"no experts", "parallel.ep to 1"});
  EXPECT_NO_THROW(Mesh({.pp = 2, .dp = 4}).require_experts(0));
}

}  // namespace
}  // namespace finback::parallel
