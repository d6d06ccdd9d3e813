// Causal attention in the absorbed form of MLA (DeepSeek-V2, arXiv 2405.04434, §2.1.2): the heads share one key a position, its latent
// beside its rope key, and the latent is the value too.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

#include <algorithm>
#include <cmath>

namespace finback::kernels::reference_kernels {
namespace {

void latent_attention(const Context& ctx, ConstMat q_latent, ConstMat q, ConstMat cache, std::span<const PagedSegment> segments,
                      const AttentionShape& shape, Mat o) {
  const std::int64_t C = cache.cols - shape.rope, head = shape.nope + shape.rope;
  for (const PagedSegment& s : segments)
    for (std::int64_t i = 0; i < s.rows; ++i)
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        const core::ArenaScope scope(ctx.scratch);
        const std::int64_t row = s.q_row + i, keys = s.first_position + i + 1;
        const auto key_row = [&](std::int64_t j) { return s.pages[j / kPage] * kPage + j % kPage; };
        double* p = ctx.scratch.take_array<double>(keys);
        for (std::int64_t j = 0; j < keys; ++j) {
          double sum = 0;
          for (std::int64_t d = 0; d < C; ++d) sum += get(q_latent, row, h * C + d) * get(cache, key_row(j), d);
          for (std::int64_t d = 0; d < shape.rope; ++d) sum += get(q, row, h * head + shape.nope + d) * get(cache, key_row(j), C + d);
          p[j] = shape.scale * sum;
        }
        const double top = *std::max_element(p, p + keys);
        double sum = 0;
        for (std::int64_t j = 0; j < keys; ++j) sum += p[j] = std::exp(p[j] - top);
        for (std::int64_t d = 0; d < C; ++d) {
          double out = 0;
          for (std::int64_t j = 0; j < keys; ++j) out += p[j] * get(cache, key_row(j), d);
          put(o, row, h * C + d, out / sum);
        }
      }
}

}  // namespace

void add_latent_attention(Table& table) { table.latent_attention = latent_attention; }

}  // namespace finback::kernels::reference_kernels
