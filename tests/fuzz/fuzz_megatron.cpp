// Any bytes as an index beside 64 bytes of tokens; every sequence of an accepted one is read.
#include "formats/megatron.h"
#include "tests/fuzz/fuzz.h"

FUZZ(input) {
  static const std::string bin = finback::fuzz::put("tokens.bin", std::string(64, '\7'));
  finback::fuzz::put("tokens.idx", input);
  const finback::formats::TokenFile file(bin);
  std::vector<std::int32_t> ids;
  for (std::int64_t d = 0; d < file.documents(); ++d)
    for (std::int64_t s = file.first_sequence(d); s < file.first_sequence(d + 1); ++s) {
      FB_CHECK(file.length(s) <= 32, "{}", file.length(s));
      ids.resize(static_cast<std::size_t>(file.length(s)));
      file.read(s, 0, ids);
    }
}
