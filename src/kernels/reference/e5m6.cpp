// E5M6 codes of 1×128 tiles, element by element.
#include "numerics/e5m6.h"
#include "kernels/cpu/entries.h"
#include "kernels/reference/tile.h"

namespace finback::kernels::reference_kernels {
namespace {

using numerics::e5m6;

std::int64_t encode_e5m6(const Context&, ConstMat x, const ScaledBuffer& y) {
  FB_CHECK(y.codes.dtype == DType::u8 && y.codes.rows == x.rows && y.codes.cols == 3 * ((x.cols + 1) / 2), "codes {} {} x {}",
           core::name_of(y.codes.dtype), y.codes.rows, y.codes.cols);
  FB_CHECK(y.scales.rows == x.rows && y.scales.cols == tiles_of(x.cols), "scales {} x {}", y.scales.rows, y.scales.cols);
  std::int64_t bad = 0;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    e5m6 first;  // of the pair that is not whole yet
    const auto put_code = [&](std::int64_t, std::int64_t k, e5m6 code) {
      std::uint8_t* three = y.codes.row<std::uint8_t>(t) + k / 2 * 3;
      pack_pair(k % 2 ? first : code, k % 2 ? code : e5m6(), three);
      first = code;
    };
    for (std::int64_t k = 0; k < x.cols; k += kTile)
      bad += code_tile<e5m6>(
          t, t + 1, k, std::min(k + kTile, x.cols), /*power_of_two=*/true, [&](auto r, auto c) { return static_cast<float>(get(x, r, c)); },
          put_code, y.scales.row<float>(t)[k / kTile]);
  }
  return bad;
}

void decode_e5m6(const Context&, const ScaledMat& x, Mat y) {
  for (std::int64_t t = 0; t < y.rows; ++t)
    for (std::int64_t k = 0; k < y.cols; ++k) {
      const std::uint8_t* three = x.codes.row<std::uint8_t>(t) + k / 2 * 3;
      const auto number = static_cast<float>(k % 2 ? numerics::second_of_pair(three) : numerics::first_of_pair(three));
      put(y, t, k, static_cast<double>(number * x.scales.row<float>(t)[k / kTile]));
    }
}

}  // namespace

void add_e5m6(Table& table) {
  table.encode_e5m6 = encode_e5m6;
  table.decode_e5m6 = decode_e5m6;
}

}  // namespace finback::kernels::reference_kernels
