#include "parallel/mesh.h"

#include "core/error.h"

namespace finback::parallel {
namespace {

using core::Error;
using core::Exit;

constexpr std::int64_t kMaxWorld = 1 << 20;

std::vector<int> every(int first, int step, int count) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) ranks[static_cast<std::size_t>(i)] = first + i * step;
  return ranks;
}

}  // namespace

Mesh::Mesh(const Layout& layout) : layout_(layout) {
  const auto& [pp, dp, ep, per_node] = layout;
  const std::string where = fmt::format("parallel.pp = {}, parallel.dp = {}, parallel.ep = {}", pp, dp, ep);
  if (pp < 1 || dp < 1 || ep < 1) throw Error(Exit::usage, "a mesh needs at least one rank each way", where, "use 1 or more for each");
  if (std::int64_t{pp} * dp > kMaxWorld)
    throw Error(Exit::usage, fmt::format("more than {} ranks", kMaxWorld), where,
                "use fewer stages (parallel.pp) or replicas (parallel.dp)");
  if (dp % ep != 0)
    throw Error(Exit::usage, "expert groups do not divide the data-parallel ranks of a stage", where,
                "set parallel.ep to a divisor of parallel.dp, or parallel.dp to a multiple of parallel.ep");
  if (per_node < 0 || (per_node > 0 && world() > per_node && world() % per_node != 0))
    throw Error(Exit::usage, "the ranks do not fill the nodes evenly", fmt::format("{}, {} ranks a node", where, per_node),
                fmt::format("start a number of ranks a node that divides parallel.pp × parallel.dp = {}", world()));
  if (per_node > 0 && ep % per_node != 0 && per_node % ep != 0)
    throw Error(Exit::usage, "expert groups lie across nodes unevenly", fmt::format("{}, {} ranks a node", where, per_node),
                "set parallel.ep to a multiple or a divisor of the ranks a node");
}

void Mesh::require_world(int ranks) const {
  if (ranks == world()) return;
  throw Error(Exit::usage,
              fmt::format("the layout has {} ranks and {} started", world(), ranks == 1 ? "one was" : fmt::format("{} were", ranks)),
              fmt::format("parallel.pp = {} × parallel.dp = {}", layout_.pp, layout_.dp),
              fmt::format("start {} (--ranks {}, or mpirun -n {}), or set parallel.pp and parallel.dp so that their product is {}", world(),
                          world(), world(), ranks));
}

void Mesh::require_experts(int routed_experts) const {
  if (layout_.ep == 1 || (routed_experts > 0 && routed_experts % layout_.ep == 0)) return;
  throw Error(Exit::usage,
              routed_experts > 0 ? fmt::format("{} routed experts cannot be spread evenly", routed_experts) : "the model has no experts",
              fmt::format("parallel.ep = {}", layout_.ep),
              routed_experts > 0 ? "set parallel.ep to a divisor of n_routed_experts" : "set parallel.ep to 1");
}

Coordinates Mesh::at(int rank) const {
  FB_CHECK(rank >= 0 && rank < world(), "{} of {}", rank, world());
  const int dp = rank % layout_.dp;
  return {.pp = rank / layout_.dp, .dp = dp, .ep = dp % layout_.ep, .ep_group = dp / layout_.ep};
}

std::vector<int> Mesh::dp_group(int rank) const { return every(rank_at(at(rank).pp, 0), 1, layout_.dp); }

std::vector<int> Mesh::ep_group(int rank) const {
  const Coordinates c = at(rank);
  return every(rank_at(c.pp, c.ep_group * layout_.ep), 1, layout_.ep);
}

std::vector<int> Mesh::expert_dp_group(int rank) const {
  const Coordinates c = at(rank);
  return every(rank_at(c.pp, c.ep), layout_.ep, layout_.dp / layout_.ep);
}

std::vector<int> Mesh::pipeline(int rank) const { return every(at(rank).dp, layout_.dp, layout_.pp); }

std::optional<int> Mesh::previous(int rank) const { return at(rank).pp > 0 ? std::optional(rank - layout_.dp) : std::nullopt; }

std::optional<int> Mesh::next(int rank) const { return at(rank).pp + 1 < layout_.pp ? std::optional(rank + layout_.dp) : std::nullopt; }

int Mesh::nodes() const {
  const int per_node = layout_.ranks_per_node;
  return per_node == 0 ? 1 : (world() + per_node - 1) / per_node;
}

int Mesh::node(int rank) const { return layout_.ranks_per_node == 0 ? 0 : rank / layout_.ranks_per_node; }

int Mesh::index_in_node(int rank) const { return layout_.ranks_per_node == 0 ? rank : rank % layout_.ranks_per_node; }

}  // namespace finback::parallel
