#include "data/byte_stream.h"

#include "core/error.h"

#include <zstd.h>

#include <algorithm>
#include <new>
#include <vector>

namespace finback::data {

using core::Error;
using core::Exit;

struct ByteStream::Zstd {
  ZSTD_DCtx* context = ZSTD_createDCtx();
  std::vector<char> buffer = std::vector<char>(ZSTD_DStreamInSize());
  ZSTD_inBuffer in{buffer.data(), 0, 0};
  bool inside_frame = false;

  Zstd() {
    if (!context) throw std::bad_alloc();
  }
  ~Zstd() { ZSTD_freeDCtx(context); }
};

ByteStream::ByteStream(const std::string& path) : file_(path) {
  if (path.ends_with(".zst")) zstd_ = std::make_unique<Zstd>();
}

ByteStream::~ByteStream() = default;

std::size_t ByteStream::read(std::span<char> out) {
  if (zstd_) return read_compressed(out);
  const std::size_t n = std::min<std::uint64_t>(out.size(), file_.size() - offset_);
  file_.read(out.data(), n, offset_);
  offset_ += n;
  return n;
}

std::size_t ByteStream::read_compressed(std::span<char> out) {
  Zstd& z = *zstd_;
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  while (to.pos < to.size) {
    if (z.in.pos == z.in.size) {
      const std::size_t n = std::min<std::uint64_t>(z.buffer.size(), file_.size() - offset_);
      if (n == 0 && !z.inside_frame) break;
      if (n == 0)
        throw Error(Exit::bad_input, "the compressed data end in the middle of a frame", path(), "copy or compress the file again");
      file_.read(z.buffer.data(), n, offset_);
      offset_ += n;
      z.in = {z.buffer.data(), n, 0};
    }
    const std::size_t left = ZSTD_decompressStream(z.context, &to, &z.in);
    if (ZSTD_isError(left))
      throw Error(Exit::bad_input, fmt::format("damaged zstd data before byte {}: {}", offset_, ZSTD_getErrorName(left)), path(),
                  "copy or compress the file again (without --long beyond 27)");
    z.inside_frame = left != 0;
  }
  return to.pos;
}

void ByteStream::skip(std::uint64_t n) {
  const auto too_short = [&] {
    return Error(Exit::bad_input, "the file is shorter than it was", path(), "start again without the partial output");
  };
  if (!zstd_) {
    if (n > file_.size() - offset_) throw too_short();
    offset_ += n;
    return;
  }
  std::vector<char> sink(1 << 16);
  while (n > 0) {
    const std::size_t got = read({sink.data(), std::min<std::uint64_t>(n, sink.size())});
    if (got == 0) throw too_short();
    n -= got;
  }
}

}  // namespace finback::data
