#include "parallel/placement.h"

#include "core/error.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace finback::parallel {
namespace {

const std::vector<double> kFirst{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86};
const std::vector<double> kSecond{20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27};

std::vector<int> slots(const std::vector<double>& load, const PlacementShape& shape) { return place_experts(load, shape).expert_of_slot; }

// The example in the README of deepseek-ai/EPLB.
TEST(Placement, HierarchicalVectorOfThePublishedExample) {
  const PlacementShape shape{.slots = 16, .groups = 4, .nodes = 2, .ranks = 8};
  EXPECT_EQ(slots(kFirst, shape), (std::vector{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}));
  EXPECT_EQ(slots(kSecond, shape), (std::vector{7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}));
}

// What eplb.rebalance_experts(torch.tensor([kFirst, kSecond]), slots, groups, nodes, ranks) of the same repository returns: two nodes do
// not divide three or five groups, so these are global; then a group a node, and no replica to spare.
TEST(Placement, VectorsOfThePublishedCode) {
  const PlacementShape three{.slots = 16, .groups = 3, .nodes = 2, .ranks = 8};
  EXPECT_EQ(slots(kFirst, three), (std::vector{10, 6, 10, 7, 0, 2, 11, 4, 5, 9, 5, 4, 8, 3, 1, 1}));
  EXPECT_EQ(slots(kSecond, three), (std::vector{1, 10, 2, 4, 5, 11, 5, 0, 6, 7, 6, 3, 8, 8, 9, 7}));
  const PlacementShape group_a_node{.slots = 24, .groups = 4, .nodes = 4, .ranks = 8};
  EXPECT_EQ(slots(kFirst, group_a_node), (std::vector{0, 1, 1, 0, 1, 2, 3, 5, 4, 5, 5, 4, 8, 8, 7, 8, 6, 6, 10, 10, 11, 10, 9, 11}));
  EXPECT_EQ(slots(kSecond, group_a_node), (std::vector{2, 1, 1, 2, 1, 0, 3, 5, 4, 5, 5, 5, 6, 8, 7, 6, 8, 7, 11, 9, 10, 9, 9, 9}));
  const PlacementShape none_spare{.slots = 12, .groups = 4, .nodes = 2, .ranks = 4};
  EXPECT_EQ(slots(kFirst, none_spare), (std::vector{5, 3, 7, 4, 8, 6, 10, 11, 2, 1, 0, 9}));
  EXPECT_EQ(slots(kSecond, none_spare), (std::vector{6, 9, 11, 8, 7, 10, 5, 3, 4, 1, 2, 0}));
}

// Whether with `each` as the most load of a replica the slots suffice.
bool suffices(const std::vector<double>& load, int slots, double each) {
  double needed = 0;
  for (const double l : load) needed += std::max(1.0, std::ceil(l / each * (1 - 1e-12)));
  return needed <= slots;
}

TEST(Placement, EveryExpertHasASlotAndTheBusiestReplicaIsAsIdleAsCanBe) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    const auto draw = [&](int low, int high) { return std::uniform_int_distribution(low, high)(random); };
    const int nodes = draw(1, 4), ranks = nodes * draw(1, 4), groups = nodes * draw(1, 3), experts = groups * draw(1, 8);
    const int least = (experts + ranks - 1) / ranks, each = draw(least, least + 3);
    std::vector<double> load(static_cast<std::size_t>(experts));
    for (double& l : load) l = draw(0, 1000);
    const PlacementShape shape{.slots = each * ranks, .groups = groups, .nodes = draw(0, 1) == 1 ? nodes : 1, .ranks = ranks};
    const Placement placement = place_experts(load, shape);

    ASSERT_EQ(placement.expert_of_slot.size(), static_cast<std::size_t>(shape.slots));
    std::size_t found = 0;
    double busiest = 0;
    for (std::size_t e = 0; e < load.size(); ++e) {
      const auto& own = placement.slots_of_expert[e];
      ASSERT_FALSE(own.empty());
      ASSERT_TRUE(std::is_sorted(own.begin(), own.end()));
      for (const int s : own) ASSERT_EQ(placement.expert_of_slot[static_cast<std::size_t>(s)], static_cast<int>(e));
      found += own.size();
      busiest = std::max(busiest, load[e] / static_cast<double>(own.size()));
    }
    ASSERT_EQ(found, placement.expert_of_slot.size());

    const int node_slots = shape.slots / shape.nodes, group_size = experts / groups;
    for (int g = 0; g < groups; ++g) {  // a group on one node
      const int home = placement.slots_of_expert[static_cast<std::size_t>(g * group_size)][0] / node_slots;
      for (int e = g * group_size; e < (g + 1) * group_size; ++e)
        for (const int s : placement.slots_of_expert[static_cast<std::size_t>(e)]) ASSERT_EQ(s / node_slots, home);
    }
    if (shape.nodes == 1 && busiest > 0) {
      EXPECT_TRUE(suffices(load, shape.slots, busiest));
      EXPECT_FALSE(suffices(load, shape.slots, busiest * (1 - 1e-9)));
    }
  }
}

TEST(Placement, RefusesWhatDoesNotDivide) {
  const std::vector<double> load(12, 1.0), negative(12, -1.0);
  const PlacementShape good{.slots = 16, .groups = 4, .nodes = 2, .ranks = 8};
  EXPECT_NO_THROW(place_experts(load, good));
  for (const PlacementShape& s :
       {PlacementShape{.slots = 15, .groups = 4, .nodes = 2, .ranks = 8}, PlacementShape{.slots = 8, .groups = 4, .nodes = 2, .ranks = 8},
        PlacementShape{.slots = 16, .groups = 5, .nodes = 2, .ranks = 8}, PlacementShape{.slots = 15, .groups = 4, .nodes = 2, .ranks = 5},
        PlacementShape{.slots = 16, .groups = 0, .nodes = 2, .ranks = 8}})
    EXPECT_THROW(place_experts(load, s), core::Error);
  EXPECT_THROW(place_experts(negative, good), core::Error);
  EXPECT_THROW(place_experts({}, good), core::Error);
}

}  // namespace
}  // namespace finback::parallel
