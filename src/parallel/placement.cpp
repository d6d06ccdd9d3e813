#include "parallel/placement.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace finback::parallel {
namespace {

using core::Error;
using core::Exit;

void check(std::span<const double> load, const PlacementShape& s) {
  const std::string where =
      fmt::format("{} experts in {} groups, {} slots, {} nodes, {} ranks", load.size(), s.groups, s.slots, s.nodes, s.ranks);
  const auto refuse = [&](std::string_view what, std::string_view remedy) { throw Error(Exit::usage, what, where, remedy); };
  const auto experts = static_cast<int>(load.size());
  if (experts < 1 || s.groups < 1 || s.nodes < 1 || s.ranks < 1)
    refuse("a placement needs at least one expert, group, node and rank", "use 1 or more of each");
  if (s.slots < experts) refuse("fewer slots than experts", "use at least one slot for each expert");
  if (s.slots % s.ranks != 0) refuse("ranks do not divide slots", "use a multiple of the ranks as slots");
  if (s.ranks % s.nodes != 0) refuse("nodes do not divide ranks", "use the same number of ranks on each node");
  if (experts % s.groups != 0) refuse("groups do not divide experts", "use the model's n_group");
  for (const double l : load)
    if (!std::isfinite(l) || l < 0) refuse(fmt::format("a load of {}", l), "loads are counts of tokens");
}

// Items into packs of one size. Returns the items, pack after pack, each pack in the order in which it was filled.
std::vector<int> pack(std::span<const double> load, int packs) {
  const std::size_t size = load.size() / static_cast<std::size_t>(packs);
  std::vector<int> order(load.size());
  std::iota(order.begin(), order.end(), 0);
  if (size == 1) return order;
  const auto of = [&](int item) { return load[static_cast<std::size_t>(item)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return of(a) > of(b); });
  std::vector<std::vector<int>> filled(static_cast<std::size_t>(packs));
  std::vector<double> weight(filled.size());
  for (const int item : order) {
    std::size_t lightest = filled.size();
    for (std::size_t p = 0; p < filled.size(); ++p)
      if (filled[p].size() < size && (lightest == filled.size() || weight[p] < weight[lightest])) lightest = p;
    filled[lightest].push_back(item);
    weight[lightest] += of(item);
  }
  std::vector<int> out;
  for (const auto& items : filled) out.insert(out.end(), items.begin(), items.end());
  return out;
}

// The item of each of `slots` replicas: every item once, then each further replica as it is given. `load` becomes that of a replica.
std::vector<int> repeat(std::span<double> load, int slots) {
  std::vector<int> item(load.size());
  std::iota(item.begin(), item.end(), 0);
  std::vector<int> count(load.size(), 1);
  const auto each = [&](std::size_t i) { return load[i] / count[i]; };
  while (static_cast<int>(item.size()) < slots) {
    std::size_t busiest = 0;
    for (std::size_t i = 1; i < load.size(); ++i)
      if (each(i) > each(busiest)) busiest = i;
    item.push_back(static_cast<int>(busiest));
    ++count[busiest];
  }
  for (std::size_t i = 0; i < load.size(); ++i) load[i] = each(i);
  return item;
}

}  // namespace

Placement place_experts(std::span<const double> load, const PlacementShape& shape) {
  check(load, shape);
  const bool hierarchical = shape.groups % shape.nodes == 0;
  const int nodes = hierarchical ? shape.nodes : 1, groups = hierarchical ? shape.groups : 1;
  const std::size_t group_size = load.size() / static_cast<std::size_t>(groups);

  // Groups onto nodes.
  std::vector<double> group_load;
  for (std::size_t e = 0; e < load.size(); e += group_size)
    group_load.push_back(
        std::accumulate(load.begin() + static_cast<std::ptrdiff_t>(e), load.begin() + static_cast<std::ptrdiff_t>(e + group_size), 0.0));
  std::vector<int> expert;  // node after node
  for (const int g : pack(group_load, nodes))
    for (std::size_t i = 0; i < group_size; ++i) expert.push_back(g * static_cast<int>(group_size) + static_cast<int>(i));

  Placement out{.slots_of_expert = std::vector<std::vector<int>>(load.size())};
  const std::size_t node_size = load.size() / static_cast<std::size_t>(nodes);
  for (std::size_t first = 0; first < expert.size(); first += node_size) {
    const std::span members(expert.data() + first, node_size);
    std::vector<double> member_load;
    for (const int e : members) member_load.push_back(load[static_cast<std::size_t>(e)]);

    const std::vector<int> replicas = repeat(member_load, shape.slots / nodes);
    std::vector<double> replica_load;
    for (const int m : replicas) replica_load.push_back(member_load[static_cast<std::size_t>(m)]);
    for (const int r : pack(replica_load, shape.ranks / nodes)) {
      const int e = members[static_cast<std::size_t>(replicas[static_cast<std::size_t>(r)])];
      out.slots_of_expert[static_cast<std::size_t>(e)].push_back(static_cast<int>(out.expert_of_slot.size()));
      out.expert_of_slot.push_back(e);
    }
  }
  return out;
}

}  // namespace finback::parallel
