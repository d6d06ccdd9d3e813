// How many tiles runs of rows have, and which one a row lies in.
#include "core/error.h"
#include "kernels/kernels.h"

namespace finback::kernels {

std::int64_t row_tiles(std::int64_t rows, std::span<const std::int64_t> parts) {
  if (parts.empty()) return tiles_of(rows);
  std::int64_t tiles = 0, sum = 0;
  for (const std::int64_t part : parts) tiles += tiles_of(part), sum += part;
  FB_CHECK(sum == rows, "parts of {} rows together for {}", sum, rows);
  return tiles;
}

std::int64_t row_tile_of(std::int64_t row, std::span<const std::int64_t> parts) {
  std::int64_t tiles = 0;
  for (const std::int64_t part : parts) {
    if (row < part) break;
    row -= part;
    tiles += tiles_of(part);
  }
  return tiles + row / kTile;
}

std::int64_t row_tiles(std::span<const std::int64_t> offsets) {
  std::int64_t tiles = 0;
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g) tiles += tiles_of(offsets[g + 1] - offsets[g]);
  return tiles;
}

}  // namespace finback::kernels
