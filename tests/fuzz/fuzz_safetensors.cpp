// Any bytes as a .safetensors file; every tensor of an accepted one is read.
#include "formats/safetensors.h"
#include "tests/fuzz/fuzz.h"

FUZZ(input) {
  const finback::formats::SafetensorsFile file(finback::fuzz::put("x.safetensors", input));
  std::string data;
  for (const auto& t : file.tensors()) {
    FB_CHECK(t.bytes() <= input.size() && file.find(t.name) == &t, "{}", t.name);
    data.resize(t.bytes());
    file.read(t, data.data());
  }
}
