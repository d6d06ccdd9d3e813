#include "convert/worker.h"

#include "core/error.h"
#include "formats/convert.h"
#include "numerics/e4m3.h"

#include <algorithm>
#include <cstring>

namespace finback::convert {
namespace {

using core::ConstMat;
using core::DType;
using kernels::kTile;
using kernels::ScaledBuffer;
using kernels::tiles_of;

constexpr std::int64_t kDecodeRows = 8;  // decoded at a time, to be compared

// Buffers only grow: to shrink and grow again would write zeros each time.
template <class T>
void grow(std::vector<T>& buffer, std::int64_t n) {
  if (std::ssize(buffer) < n) buffer.resize(static_cast<std::size_t>(n));
}

ScaledBuffer scaled(std::vector<std::byte>& codes, std::vector<float>& scales, const Block& b) {
  grow(codes, b.rows * b.cols);
  grow(scales, tiles_of(b.rows) * tiles_of(b.cols));
  return {core::mat(codes.data(), DType::e4m3, b.rows, b.cols), core::mat(scales.data(), DType::f32, tiles_of(b.rows), tiles_of(b.cols))};
}

kernels::WeightView codes_view(ConstMat codes, ConstMat scales) {
  return {.data = codes.data, .dtype = DType::e4m3, .rows = codes.rows, .cols = codes.cols, .scales = scales};
}

// Rows of a matrix, to where they stand in a tensor of `file_cols` columns that begins at a byte of the file.
void put_rows(core::AtomicFile& file, std::uint64_t begin, std::int64_t file_cols, std::int64_t row, std::int64_t col, ConstMat x) {
  const std::int64_t size = core::size_of(x.dtype);
  const auto at = [&](std::int64_t r) { return begin + static_cast<std::uint64_t>((r * file_cols + col) * size); };
  if (x.cols == file_cols && x.contiguous()) return file.write_at(x.data, static_cast<std::size_t>(x.size() * size), at(row));
  for (std::int64_t r = 0; r < x.rows; ++r) file.write_at(x.at(r, 0), static_cast<std::size_t>(x.cols * size), at(row + r));
}

// Codes weights by a scale that is given. False as soon as codes do not stand for exactly their weights.
template <class T>
bool encode_exactly(ConstMat x, float scale, core::Mat codes) {
  float decoded[kTile];
  for (std::int64_t r = 0; r < x.rows; ++r) {
    auto* row = codes.row<numerics::e4m3>(r);
    for (std::int64_t i = 0; i < x.cols; ++i) {
      row[i] = numerics::e4m3(static_cast<float>(x.row<T>(r)[i]) * (1 / scale));
      decoded[i] = static_cast<float>(row[i]) * scale;
    }
    if (!stand_for(decoded, x.row<T>(r), x.cols)) return false;
  }
  return true;
}

// Elements or codes, and scales if there are any.
void put(const Piece& piece, core::AtomicFile& file, const void* data, ConstMat scales = {}) {
  const Weight& w = *piece.weight;
  const Block& b = piece.block;
  if (piece.part->data) put_rows(file, *piece.part->data, w.cols, b.row, b.col, core::const_mat(data, w.to, b.rows, b.cols));
  if (piece.part->scales) put_rows(file, *piece.part->scales, tiles_of(w.cols), b.row / kTile, b.col / kTile, scales);
}

}  // namespace

FormatError Worker::convert(const Piece& piece, core::AtomicFile& file) {
  const Weight& w = *piece.weight;
  const Block& b = piece.block;
  const std::int64_t n = b.rows * b.cols;
  grow(in_, n * core::size_of(w.from));
  source_.read(w, b, in_.data());
  if (!w.verbatim.empty()) return put(piece, file, in_.data()), FormatError{};
  if (w.to == DType::e4m3 && w.from != DType::e4m3) return quantise(piece, file);
  if (w.from == w.to) {
    check_finite(w, w.from, in_.data(), n);
    put(piece, file, in_.data(), w.has_scales() ? source_scales(w, b) : ConstMat{});
    return {};
  }
  grow(out_, n * core::size_of(w.to));
  if (w.from == DType::e4m3)
    context_.kernels.dequantize_blocks(context_, codes_view(core::const_mat(in_.data(), DType::e4m3, b.rows, b.cols), source_scales(w, b)),
                                       core::mat(out_.data(), w.to, b.rows, b.cols));
  else formats::convert_weights(w.from, in_.data(), w.to, out_.data(), n);
  check_finite(w, w.to, out_.data(), n);
  put(piece, file, out_.data());
  return {};
}

void Worker::check_finite(const Weight& w, DType type, const void* values, std::int64_t n) const {
  if (formats::count_non_finite(type, values, n) > 0) refuse(w);
}

void Worker::refuse(const Weight& w) const {
  throw core::Error(core::Exit::bad_input,
                    fmt::format("tensor '{}' holds values that are NaN or infinite, or become so in {}", w.name, core::name_of(w.to)),
                    source_.where(w), "repair it or download it again; `finback verify --check-tensors` lists all such tensors");
}

// The scales of a block of an FP8 weight, of the source's tensor.
ConstMat Worker::source_scales(const Weight& w, const Block& b) {
  const std::int64_t rows = tiles_of(b.rows), cols = tiles_of(w.cols);
  grow(scales_, rows * cols);
  source_.read_scales(w, b.row / kTile, rows, scales_.data());
  return core::const_mat(scales_.data(), DType::f32, rows, cols).columns(b.col / kTile, tiles_of(b.cols));
}

FormatError Worker::quantise(const Piece& piece, core::AtomicFile& file) {
  const Weight& w = *piece.weight;
  const Block& b = piece.block;
  DType type = w.from;
  if (type == DType::f16) {  // exact in f32
    grow(out_, b.rows * b.cols * core::size_of(DType::f32));
    formats::convert_weights(type, in_.data(), DType::f32, out_.data(), b.rows * b.cols);
    std::swap(in_, out_);
    type = DType::f32;
  }
  const ConstMat x = core::const_mat(in_.data(), type, b.rows, b.cols);
  const ScaledBuffer made = scaled(out_, made_scales_, b);
  if (context_.kernels.quantize_blocks(context_, x, 1, {}, {}, made) > 0) refuse(w);
  FormatError error;
  error.blocks = made.scales.size();
  original_.assign(static_cast<std::size_t>(error.blocks), 0);
  if (record_) error.original_blocks = take_originals(w, b, x, made);
  if (error.original_blocks < error.blocks)
    for_each_decoded(x, made.codes, made.scales, [&](std::int64_t tile, const auto* weights, const float* decoded, std::int64_t n) {
      if (!original_[static_cast<std::size_t>(tile)]) error.measure(weights, decoded, n);
    });
  put(piece, file, made.codes.data, made.scales);
  return error;
}

// Gives blocks that were never changed the codes and scales that the FP8 folder had: those whose codes, times the old scale, stand for
// exactly their weights. The codes just made are the old ones wherever the old held a 448; other blocks are coded again. Returns how
// many blocks are as they were.
std::int64_t Worker::take_originals(const Weight& w, const Block& b, ConstMat x, const ScaledBuffer& made) {
  const std::int64_t rows = tiles_of(b.rows), cols = tiles_of(w.cols);
  grow(scales_, rows * cols);
  if (!record_->read_scales(w, b.row / kTile, rows, scales_.data())) return 0;
  const ConstMat scales = core::const_mat(scales_.data(), DType::f32, rows, cols).columns(b.col / kTile, made.scales.cols);
  std::fill(original_.begin(), original_.end(), 1);
  for_each_decoded(x, made.codes, scales, [&](std::int64_t tile, const auto* weights, const float* decoded, std::int64_t n) {
    if (!stand_for(decoded, weights, n)) original_[static_cast<std::size_t>(tile)] = 0;
  });
  std::int64_t originals = 0;
  for (std::int64_t tile = 0; tile < made.scales.size(); ++tile) {
    const std::int64_t tr = tile / made.scales.cols, tc = tile % made.scales.cols;
    const float scale = scales.row<float>(tr)[tc];
    char& original = original_[static_cast<std::size_t>(tile)];
    if (!original) original = encode_again(x, tr, tc, scale, made.codes);
    if (original) made.scales.row<float>(tr)[tc] = scale;
    originals += original;
  }
  return originals;
}

// One block, by a scale that is given; codes change only if they then stand for exactly the weights.
bool Worker::encode_again(ConstMat x, std::int64_t tile_row, std::int64_t tile_col, float scale, core::Mat codes) {
  const std::int64_t r = tile_row * kTile, c = tile_col * kTile, rows = std::min(kTile, x.rows - r), cols = std::min(kTile, x.cols - c);
  grow(other_codes_, rows * cols);
  const core::Mat again = core::mat(other_codes_.data(), DType::e4m3, rows, cols);
  const ConstMat block = x.row_range(r, rows).columns(c, cols);
  if (!(x.dtype == DType::f32 ? encode_exactly<float>(block, scale, again) : encode_exactly<numerics::bf16>(block, scale, again)))
    return false;
  for (std::int64_t i = 0; i < rows; ++i) std::memcpy(codes.at(r + i, c), again.at(i, 0), static_cast<std::size_t>(cols));
  return true;
}

// use(tile, weights, decoded, n) for every row of every tile, in an order that depends on the sizes alone.
template <class Use>
void Worker::for_each_decoded(ConstMat x, ConstMat codes, ConstMat scales, const Use& use) {
  grow(decoded_, kDecodeRows * x.cols);
  for (std::int64_t r = 0; r < x.rows; r += kDecodeRows) {
    const std::int64_t rows = std::min(kDecodeRows, x.rows - r);
    context_.kernels.dequantize_blocks(context_, codes_view(codes.row_range(r, rows), scales.row_range(r / kTile, 1)),
                                       core::mat(decoded_.data(), DType::f32, rows, x.cols));
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t c = 0; c < x.cols; c += kTile) {
        const std::int64_t n = std::min(kTile, x.cols - c), tile = (r + i) / kTile * scales.cols + c / kTile;
        const float* decoded = decoded_.data() + i * x.cols + c;
        if (x.dtype == DType::f32) use(tile, x.row<float>(r + i) + c, decoded, n);
        else use(tile, x.row<numerics::bf16>(r + i) + c, decoded, n);
      }
  }
}

}  // namespace finback::convert
