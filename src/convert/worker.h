// One thread's part of a conversion: blocks of weights are read, converted and written to their place, each through buffers of its own.
#pragma once

#include "convert/format_error.h"
#include "convert/record.h"
#include "core/file.h"
#include "core/team.h"

#include <vector>

namespace finback::convert {

// A block of a weight, and where the weight goes. Blocks of FP8 weights begin at whole tiles.
struct Piece {
  const Weight* weight;
  const Part* part;
  Block block;
};

class Worker {
 public:
  // `record` (or null) has the scales that FP8 weights once had.
  Worker(const Source& source, const Record* record) : source_(source), record_(record) {}

  // Returns the error of the codes that were made, none if there are none. Throws Error(bad_input) naming the tensor, Error(io).
  FormatError convert(const Piece& piece, core::AtomicFile& file);

 private:
  void check_finite(const Weight& w, core::DType type, const void* values, std::int64_t n) const;
  [[noreturn]] void refuse(const Weight& w) const;
  core::ConstMat source_scales(const Weight& w, const Block& b);
  FormatError quantise(const Piece& piece, core::AtomicFile& file);
  std::int64_t take_originals(const Weight& w, const Block& b, core::ConstMat x, const kernels::ScaledBuffer& made);
  bool encode_again(core::ConstMat x, std::int64_t tile_row, std::int64_t tile_col, float scale, core::Mat codes);
  template <class Use>
  void for_each_decoded(core::ConstMat x, core::ConstMat codes, core::ConstMat scales, const Use& use);

  const Source& source_;
  const Record* record_;
  core::Team team_{1};
  core::Arena scratch_{"conversion", kernels::scratch_bytes(1)};
  kernels::Context context_{kernels::best(), team_, scratch_};
  std::vector<std::byte> in_, out_, other_codes_;
  std::vector<float> scales_, made_scales_, decoded_;
  std::vector<char> original_;  // of each 128 × 128 block of a piece: it has its original codes
};

}  // namespace finback::convert
