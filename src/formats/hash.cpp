#include "formats/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

namespace finback::formats {

Xxh3::Xxh3() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  XXH3_128bits_reset(state_.get());
}

void Xxh3::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

void Xxh3::update(const void* data, std::size_t size) { XXH3_128bits_update(state_.get(), data, size); }

std::uint64_t Xxh3::digest64() const { return XXH3_64bits_digest(state_.get()); }

std::string Xxh3::digest128() const {
  const XXH128_hash_t h = XXH3_128bits_digest(state_.get());
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

std::string xxh3_128(std::string_view text) {
  Xxh3 h;
  h.update(text.data(), text.size());
  return h.digest128();
}

}  // namespace finback::formats
