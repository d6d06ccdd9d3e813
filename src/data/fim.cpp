#include "data/fim.h"

#include "core/error.h"

namespace finback::data {

void append_fim(std::span<const std::int32_t> content, std::size_t a, std::size_t b, const FimTokens& marks, std::int32_t eos,
                std::vector<std::int32_t>& out) {
  FB_CHECK(a <= b && b <= content.size(), "{} {} {}", a, b, content.size());
  const auto append = [&](std::span<const std::int32_t> ids) { out.insert(out.end(), ids.begin(), ids.end()); };
  out.push_back(marks.begin);
  append(content.first(a));
  out.push_back(marks.hole);
  append(content.subspan(b));
  out.push_back(marks.end);
  append(content.subspan(a, b - a));
  out.push_back(eos);
}

}  // namespace finback::data
