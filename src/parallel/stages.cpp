#include "parallel/stages.h"

#include "core/error.h"

#include <algorithm>
#include <limits>

namespace finback::parallel {

std::vector<int> cut_evenly(std::span<const double> cost, int parts) {
  const auto n = static_cast<int>(cost.size());
  FB_CHECK(parts >= 1 && (parts == 1 ? n >= 1 : n >= 2), "{} pieces, {} parts", n, parts);
  struct Best {
    double most = std::numeric_limits<double>::infinity(), squares = 0;
    int from = 0;  // first piece of the last part
    bool operator<(const Best& other) const { return most != other.most ? most < other.most : squares < other.squares; }
  };
  std::vector<double> sum(cost.size() + 1);
  for (std::size_t i = 0; i < cost.size(); ++i) sum[i + 1] = sum[i] + cost[i];
  const auto of = [&](int from, int to) { return sum[static_cast<std::size_t>(to)] - sum[static_cast<std::size_t>(from)]; };

  // best[p][i]: the first i pieces in p + 1 parts.
  std::vector<std::vector<Best>> best(static_cast<std::size_t>(parts), std::vector<Best>(cost.size() + 1));
  for (int i = 1; i <= n; ++i) best[0][static_cast<std::size_t>(i)] = {of(0, i), of(0, i) * of(0, i), 0};
  for (int p = 1; p < parts; ++p)
    for (int i = 1; i <= n; ++i) {
      const int last_from = p + 1 == parts && i == n ? n - 1 : i;  // the last part has the last piece
      for (int from = 1; from <= last_from; ++from) {
        const Best& before = best[static_cast<std::size_t>(p - 1)][static_cast<std::size_t>(from)];
        const double here = of(from, i);
        const Best now{std::max(before.most, here), before.squares + here * here, from};
        if (Best& b = best[static_cast<std::size_t>(p)][static_cast<std::size_t>(i)]; now < b) b = now;
      }
    }
  std::vector<int> first(static_cast<std::size_t>(parts) + 1, n);
  for (int p = parts - 1; p >= 0; --p)
    first[static_cast<std::size_t>(p)] =
        best[static_cast<std::size_t>(p)][static_cast<std::size_t>(first[static_cast<std::size_t>(p) + 1])].from;
  return first;
}

int Stages::of(const model::Slab& slab) const {
  if (slab.role == model::Role::embedding) return 0;
  if (slab.layer < 0 || slab.layer >= main_blocks()) return count() - 1;
  const auto next = std::upper_bound(first_block.begin(), first_block.end(), static_cast<int>(slab.layer));
  return static_cast<int>(next - first_block.begin()) - 1;
}

Stages cut_stages(const model::ModelConfig& m, std::int64_t seq_len, int stages) {
  // Pieces: the embedding, the main blocks, and the final norm, head and MTP modules together.
  const auto blocks = static_cast<std::size_t>(m.num_hidden_layers);
  std::vector<double> cost(blocks + 2);
  for (const model::Slab& s : model::list_parameters(m).slabs) {
    if (s.role == model::Role::embedding) continue;  // looked up
    double met = static_cast<double>(s.size());      // weights that a token is multiplied with
    if (s.role == model::Role::expert) met *= static_cast<double>(m.num_experts_per_tok) / static_cast<double>(s.groups);
    if (s.role == model::Role::head) met *= static_cast<double>(1 + m.num_nextn_predict_layers);
    const bool main = s.layer >= 0 && s.layer < m.num_hidden_layers;
    (main ? cost[static_cast<std::size_t>(s.layer) + 1] : cost.back()) += 2 * met;
  }
  const double width = static_cast<double>(m.num_attention_heads * (m.qk_head_dim() + m.v_head_dim));
  const double attention = width * static_cast<double>(seq_len);  // two products over the causal half
  for (std::size_t l = 0; l < blocks; ++l) cost[l + 1] += attention;
  cost.back() += attention * static_cast<double>(m.num_nextn_predict_layers);

  Stages out{cut_evenly(cost, stages)};
  for (int& piece : out.first_block) piece = std::clamp(piece - 1, 0, static_cast<int>(blocks));  // from pieces to blocks
  return out;
}

model::ParameterList parameters_on(const model::ParameterList& all, const Stages& stages, std::span<const int> own_stages, int ep,
                                   int ep_index) {
  model::ParameterList part;
  std::vector<int> slab_of(all.slabs.size(), -1);
  for (std::size_t s = 0; s < all.slabs.size(); ++s) {
    model::Slab slab = all.slabs[s];
    if (std::find(own_stages.begin(), own_stages.end(), stages.of(slab)) == own_stages.end()) continue;
    if (slab.role == model::Role::expert) {
      FB_CHECK(slab.groups % ep == 0, "{} experts over {} ranks", slab.groups, ep);
      slab.groups /= ep;
    }
    slab_of[s] = static_cast<int>(part.slabs.size());
    part.slabs.push_back(std::move(slab));
  }
  for (model::Parameter p : all.parameters) {
    const int slab = slab_of[static_cast<std::size_t>(p.slab)];
    if (slab < 0) continue;
    const model::Slab& own = part.slabs[static_cast<std::size_t>(slab)];
    if (own.role == model::Role::expert) {
      const std::int64_t rows = own.groups * own.rows, first = ep_index * rows;
      if (p.row < first || p.row >= first + rows) continue;
      p.row -= first;
    }
    p.slab = slab;
    part.parameters.push_back(std::move(p));
  }
  // An expert slab is called after its first parameter.
  for (const model::Parameter& p : part.parameters)
    if (p.row == 0) part.slabs[static_cast<std::size_t>(p.slab)].name = p.name;
  return part;
}

}  // namespace finback::parallel
