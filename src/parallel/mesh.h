// The mesh: where a rank stands among PP × DP ranks, and with which others it exchanges what (DeepSeek-V3 report, §3.1–3.2).
//   - World = PP × DP. Rank = pp · DP + dp: the ranks of one pipeline stage are neighbours, so that an expert group lies on as few
//     nodes as can be and only the pipeline's thin sends cross the machine room.
//   - Dense weights are replicated over the DP ranks of a stage. Every rank has micro-batches of its own.
//   - EP divides DP. Experts are spread over EP consecutive ranks of a stage and replicated over the DP ÷ EP groups.
// There is no tensor parallelism.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace finback::parallel {

struct Layout {
  int pp = 1, dp = 1, ep = 1;
  int ranks_per_node = 0;  // ranks r · ranks_per_node … lie on node r; 0: all on one
};

struct Coordinates {
  int pp = 0, dp = 0;
  int ep = 0;        // place within the expert group, dp mod EP: which share of a layer's experts the rank holds
  int ep_group = 0;  // which expert group of the stage, dp ÷ EP
};

class Mesh {
 public:
  // Throws Error(usage), naming the keys, if a size is below 1, EP does not divide DP, there are more than 2^20 ranks, or nodes are
  // filled unevenly: a token that reaches a node is passed on by the rank of the sender's index there, so that every node of an expert
  // group holds as many of its ranks.
  explicit Mesh(const Layout& layout);

  // Throws Error(usage) unless that many ranks were started.
  void require_world(int ranks) const;
  // Throws Error(usage) unless EP divides a layer's routed experts (0: a dense model, where EP must be 1).
  void require_experts(int routed_experts) const;

  const Layout& layout() const { return layout_; }
  int world() const { return layout_.pp * layout_.dp; }

  Coordinates at(int rank) const;
  int rank_at(int pp, int dp) const { return pp * layout_.dp + dp; }

  // Groups in rank order, the rank itself among them: the order in which sums over ranks are taken.
  std::vector<int> dp_group(int rank) const;         // hold the same dense weights; sum their gradients
  std::vector<int> ep_group(int rank) const;         // hold one replica of a layer's experts; exchange tokens
  std::vector<int> expert_dp_group(int rank) const;  // hold the same experts; sum their gradients
  std::vector<int> pipeline(int rank) const;         // [PP] the stages that this rank's micro-batches pass

  std::optional<int> previous(int rank) const;  // in the pipeline; none before the first
  std::optional<int> next(int rank) const;

  int nodes() const;
  int node(int rank) const;
  int index_in_node(int rank) const;

 private:
  Layout layout_;
};

}  // namespace finback::parallel
