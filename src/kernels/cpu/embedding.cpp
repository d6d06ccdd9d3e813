// The table of token embeddings, as in kernels/reference/embedding.cpp.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

void forward(const Context& ctx, ConstMat table, std::span<const int32_t> ids, Mat x) {
  const int32_t* id = ids.data();
  const auto row_bytes = static_cast<size_t>(x.cols * core::size_of(x.dtype));
  for_ranges(ctx.team, split_rows(x.rows, x.cols), [&](Range rows, int) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      check_index("token", id[t], table.rows);
      memcpy(x.at(t, 0), table.at(id[t], 0), row_bytes);
    }
  });
}

constexpr int64_t kStrip = 8;  // vectors of a row that are summed at once

// The tokens of one id stand in a chain, in their order: whoever holds the first of them sums the whole chain. No other task
// touches that row of the table.
template <class T>
void backward_as(const Context& ctx, ConstMat dx, const int32_t* id, Mat dtable) {
  const int64_t tokens = dx.rows, n = dx.cols;
  const core::ArenaScope scope(ctx.scratch);
  int32_t* first = ctx.scratch.take_array<int32_t>(dtable.rows);
  int32_t* next = ctx.scratch.take_array<int32_t>(tokens);
  memset(first, -1, static_cast<size_t>(dtable.rows) * sizeof(int32_t));
  for (int64_t t = tokens; t-- > 0;) {
    check_index("token", id[t], dtable.rows);
    next[t] = first[id[t]];
    first[id[t]] = static_cast<int32_t>(t);
  }
  for_ranges(ctx.team, split_rows(tokens, n), [&](Range rows, int) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      if (first[id[t]] != t) continue;
      float* out = dtable.row<float>(id[t]);
      for (int64_t i = 0; i < n; i += kStrip * kLanes) {
        vf sum[kStrip] = {};
        for (int64_t u = t; u >= 0; u = next[u])
          for (int64_t j = 0; j < kStrip; ++j)
            if (i + j * kLanes < n) sum[j] += load(dx.row<T>(u) + i + j * kLanes, n - i - j * kLanes);
        for (int64_t j = 0; j < kStrip; ++j) {
          float* p = out + i + j * kLanes;
          const int64_t lanes = n - i - j * kLanes;
          if (lanes > 0) store(p, load(p, lanes) + sum[j], lanes);
        }
      }
    }
  });
}

void backward(const Context& ctx, ConstMat dx, std::span<const int32_t> ids, Mat dtable) {
  if (dx.dtype == DType::bf16) backward_as<uint16_t>(ctx, dx, ids.data(), dtable);
  else if (dx.dtype == DType::f32) backward_as<float>(ctx, dx, ids.data(), dtable);
  else reference().embedding_backward(ctx, dx, ids, dtable);
}

}  // namespace

void add_embedding(Table& table) {
  table.embedding_forward = forward;
  table.embedding_backward = backward;
}

}  // namespace finback::kernels::FB_ISA
