// Any bytes as a manifest, with the checksum put right so that what stands behind it is reached.
#include "formats/hash.h"
#include "formats/manifest.h"
#include "tests/fuzz/fuzz.h"

FUZZ(input) {
  constexpr std::string_view kKey = "\"checksum\": \"", kNone = "00000000000000000000000000000000";
  std::string text(input);
  if (const auto at = text.rfind(kKey); at != std::string::npos && text.size() - at >= kKey.size() + kNone.size()) {
    text.replace(at + kKey.size(), kNone.size(), kNone);
    text.replace(at + kKey.size(), kNone.size(), finback::formats::xxh3_128(text));
  }
  const auto manifest = finback::formats::Manifest::read(finback::fuzz::put("manifest.json", text));
  finback::fuzz::put("file", "0123456789");
  manifest.verify(finback::fuzz::folder());
}
