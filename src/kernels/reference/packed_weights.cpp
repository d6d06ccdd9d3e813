// Packed weights of the reference: its products read rows, so that they stay as they are.
#include "kernels/cpu/entries.h"
#include "kernels/kernels.h"

#include <cstring>

namespace finback::kernels::reference_kernels {
namespace {

std::int64_t packed_bytes(const Context&, const WeightView& w) { return w.groups * w.rows * w.cols * core::size_of(w.dtype); }

void pack_weights(const Context& ctx, const WeightView& w, void* to) {
  std::memcpy(to, w.data, static_cast<std::size_t>(packed_bytes(ctx, w)));
}

}  // namespace

void add_packed_weights(Table& table) {
  table.packed_bytes = packed_bytes;
  table.pack_weights = pack_weights;
}

}  // namespace finback::kernels::reference_kernels
