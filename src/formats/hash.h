// XXH3 (Collet): a fast checksum against accidents, not against attackers. 64 bits a tensor, 128 a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace finback::formats {

class Xxh3 {
 public:
  Xxh3();
  void update(const void* data, std::size_t size);
  std::uint64_t digest64() const;
  std::string digest128() const;  // 32 hexadecimal digits

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  // XXH3-64 and XXH3-128 share their state, so that one pass gives both.
  std::unique_ptr<XXH3_state_s, Free> state_;
};

std::string xxh3_128(std::string_view text);

}  // namespace finback::formats
