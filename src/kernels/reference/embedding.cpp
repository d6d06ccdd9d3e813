// The table of token embeddings: rows copied out, gradients added back.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

namespace finback::kernels::reference_kernels {
namespace {

void check(std::span<const std::int32_t> ids, std::int64_t rows, std::int64_t vocabulary) {
  FB_CHECK(std::ssize(ids) == rows, "{} ids for {} rows", ids.size(), rows);
  for (const std::int32_t id : ids) FB_CHECK(id >= 0 && id < vocabulary, "token {} of {}", id, vocabulary);
}

void embedding_forward(const Context&, ConstMat table, std::span<const std::int32_t> ids, Mat x) {
  check(ids, x.rows, table.rows);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t d = 0; d < x.cols; ++d) put(x, t, d, get(table, ids[static_cast<std::size_t>(t)], d));
}

void embedding_backward(const Context& ctx, ConstMat dx, std::span<const std::int32_t> ids, Mat dtable) {
  check(ids, dx.rows, dtable.rows);
  const core::ArenaScope scope(ctx.scratch);
  double* sum = ctx.scratch.take_array<double>(dx.cols);
  for (std::size_t t = 0; t < ids.size(); ++t) {
    bool first = true;  // each id is summed where it first occurs
    for (std::size_t u = 0; u < t && first; ++u) first = ids[u] != ids[t];
    if (!first) continue;
    for (std::int64_t d = 0; d < dx.cols; ++d) sum[d] = 0;
    for (std::size_t u = t; u < ids.size(); ++u)
      if (ids[u] == ids[t])
        for (std::int64_t d = 0; d < dx.cols; ++d) sum[d] += get(dx, static_cast<std::int64_t>(u), d);
    for (std::int64_t d = 0; d < dx.cols; ++d) put(dtable, ids[t], d, get(dtable, ids[t], d) + sum[d]);
  }
}

}  // namespace

void add_embedding(Table& table) {
  table.embedding_forward = embedding_forward;
  table.embedding_backward = embedding_backward;
}

}  // namespace finback::kernels::reference_kernels
