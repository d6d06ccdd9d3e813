#include "parallel/member.h"

#include "core/error.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

namespace finback::parallel {
namespace {

std::span<std::byte> bytes(const core::Mat& x) { return {static_cast<std::byte*>(x.data), static_cast<std::size_t>(x.bytes())}; }

// Starts one request after the other with two under way: one's sums are formed while the other's messages travel.
class Window {
 public:
  void add(comm::Request request) {
    before_.wait();
    before_ = std::exchange(last_, std::move(request));
  }
  void wait() {
    before_.wait();
    last_.wait();
  }

 private:
  comm::Request before_, last_;
};

}  // namespace

Member::Member(comm::Communicator& world, const model::ParameterList& all, const Layout& layout, ScheduleKind kind, Stages stages)
    : world_(world),
      all_(all),
      mesh_(layout),
      kind_(kind),
      stages_(std::move(stages)),
      part_(part_of(all, mesh_, kind, stages_, world.rank())),
      shards_(part_.list, part_.replicas()),
      places_(part_.places(world.rank())),
      dense_(split(part_.dense)),
      experts_(split(part_.experts)),
      embedding_(split(part_.embedding)),
      expert_group_(split(mesh_.ep_group(world.rank()))) {
  mesh_.require_world(world.size());
}

// Groups of one kind are apart or the same; who is in none of them is alone.
comm::Communicator Member::split(const std::vector<int>& group) {
  const bool in = std::binary_search(group.begin(), group.end(), world_.rank());
  return world_.split(in ? group.front() : world_.rank(), world_.rank());
}

comm::Communicator& Member::holders(const model::Slab& slab) {
  return slab.role == model::Role::expert ? experts_ : slab.role == model::Role::embedding ? embedding_ : dense_;
}

void Member::sum_gradients(const model::SlabBuffers& gradients) {
  Window window;
  std::vector<std::int64_t> counts;
  for (std::size_t s = 0; s < gradients.slabs.size(); ++s) {
    const core::Mat& g = gradients.slabs[s];
    comm::Communicator& group = holders(part_.list.slabs[s]);
    if (!g || group.size() == 1) continue;
    FB_CHECK(g.dtype == core::DType::f32, "slab {}: only gradients in FP32 are summed over ranks", s);
    counts.clear();
    for (int r = 0; r < group.size(); ++r) counts.push_back((shards_.end(s, r) - shards_.begin(s, r)) * g.cols);
    const std::span all(static_cast<float*>(g.data), static_cast<std::size_t>(g.size()));
    const auto first = static_cast<std::size_t>(first_row(s) * g.cols);
    window.add(group.start_reduce_scatter(std::span<const float>(all), counts,
                                          all.subspan(first, static_cast<std::size_t>(counts[static_cast<std::size_t>(places_[s])]))));
  }
  window.wait();
}

void Member::gather_weights(const model::SlabBuffers& weights) {
  Window window;
  std::vector<std::int64_t> counts;
  const auto gather = [&](std::size_t slab, core::Mat model::WeightRows::*part) {
    comm::Communicator& group = holders(part_.list.slabs[slab]);
    const core::Mat all = part == &model::WeightRows::numbers ? weights.slabs[slab] : weights.scales[slab];
    core::Mat mine;
    counts.clear();
    for (int r = 0; r < group.size(); ++r) {
      const core::Mat theirs = model::weight_rows(weights, slab, shards_.begin(slab, r), shards_.end(slab, r)).*part;
      counts.push_back(theirs.bytes());
      if (r == places_[slab]) mine = theirs;
    }
    window.add(group.start_all_gather(bytes(mine), counts, bytes(all)));
  };
  for (std::size_t s = 0; s < weights.slabs.size(); ++s) {
    if (!shards_.split(s) || holders(part_.list.slabs[s]).size() == 1) continue;
    gather(s, &model::WeightRows::numbers);
    if (!weights.scales.empty() && weights.scales[s]) gather(s, &model::WeightRows::scales);
  }
  window.wait();
}

void Member::collect(const model::SlabBuffers& share, const model::SlabBuffers* whole) {
  constexpr int kTag = 0;
  std::map<std::string_view, const model::Parameter*> of_name;
  for (const model::Parameter& p : all_.parameters) of_name[p.name] = &p;
  // Every rank's pieces, in the order of its list; what is not shared out comes from the first that holds it.
  for (int r = 0; r < (whole ? world_.size() : 1); ++r) {
    const int from = whole ? r : world_.rank();
    const Part part = from == world_.rank() ? part_ : part_of(all_, mesh_, kind_, stages_, from);
    const Shards shards(part.list, part.replicas());
    for (const model::Parameter& piece : shards.owned(part.list, part.places(from)).parameters) {
      const auto s = static_cast<std::size_t>(piece.slab);
      const model::Parameter& p = *of_name.at(piece.name);
      const core::Mat mine = from == world_.rank() ? share.slabs[s] : core::Mat{};
      // `share` may leave out slabs that are not trained.
      const bool present = whole ? static_cast<bool>(whole->slabs[static_cast<std::size_t>(p.slab)]) : static_cast<bool>(mine);
      if (!present || (!shards.split(s) && part.holders(part.list.slabs[s]).front() != from)) continue;
      const core::Mat rows = mine ? mine.row_range(piece.row, piece.rows) : core::Mat{};
      if (!whole) {
        world_.start_send(0, kTag, bytes(rows)).wait();
        continue;
      }
      const core::Mat place = whole->of(p).row_range(piece.first_row - p.first_row, piece.rows);
      if (from == world_.rank()) std::memcpy(place.data, rows.data, static_cast<std::size_t>(rows.bytes()));
      else world_.start_receive(from, kTag, bytes(place)).wait();
    }
  }
}

}  // namespace finback::parallel
