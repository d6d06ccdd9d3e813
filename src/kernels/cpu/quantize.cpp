// Tiles with scales and their codes, as in kernels/reference/quantize.cpp, which these equal bit for bit. Everything is read twice,
// for the largest magnitude and for the codes, in strips that the caches hold in between.
#include "kernels/cpu/codes.h"
#include "kernels/cpu/encode.h"
#include "kernels/cpu/entries.h"
#include "kernels/cpu/pairs.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scales.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Codes of n <= 128 elements of a row under one inverse.
template <class Format, class T>
inline void code_run(const T* x, int64_t n, vf inverse, bool finite, uint8_t* codes) {
#if defined(__AVX512BW__)
  if (finite && n == kTile) {
    store_codes_of_64<Format>(x, inverse, codes);
    store_codes_of_64<Format>(x + 64, inverse, codes + 64);
    return;
  }
#endif
  for (int64_t i = 0; i < n; i += kLanes) store_bytes(codes + i, codes_of<Format>(load(x + i, n - i), inverse, finite), n - i);
}

// A strip of at most 16 tiles side by side, all rows of x high. Returns how many hold NaN or infinity.
template <class Format, class T>
inline int64_t code_strip(ConstMat x, bool power_of_two, Mat codes, float* scales) {
  const int64_t tiles = tiles_of(x.cols);
  const auto width = [&](int64_t tile) { return smaller(kTile, x.cols - tile * kTile); };
  uint32_t amax[kLanes] = {};
  bool finite[kLanes];
  int64_t bad = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    Largest<T> largest;
    for (int64_t r = 0; r < x.rows; ++r) largest.add(x.row<T>(r) + t * kTile, width(t));
    amax[t] = largest.bits();
    finite[t] = amax[t] < kInfinity;
    if (finite[t]) continue;
    Largest<T> without;
    for (int64_t r = 0; r < x.rows; ++r) without.add_finite(x.row<T>(r) + t * kTile, width(t));
    amax[t] = without.bits();
    ++bad;
  }
  const Scales s = scales_of(load(reinterpret_cast<const float*>(amax)), Format::kLargest, power_of_two);
  float inverse[kLanes];
  store(inverse, s.inverse);
  store(scales, s.scale, tiles);
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t t = 0; t < tiles; ++t) {
      ask_for(x.row<T>(r) + (t + tiles) * kTile, kTile);
      ask_for_output(codes.row<uint8_t>(r) + (t + tiles) * kTile, kTile);
      code_run<Format>(x.row<T>(r) + t * kTile, width(t), splat(inverse[t]), finite[t], codes.row<uint8_t>(r) + t * kTile);
    }
  return bad;
}

// Strips of `tiles` tiles of a row tile.
template <class Format, class T>
int64_t code_rows(ConstMat x, int64_t tiles, bool power_of_two, Mat codes, float* scales) {
  int64_t bad = 0;
  for (int64_t k = 0; k < x.cols; k += tiles * kTile) {
    const int64_t n = smaller(tiles * kTile, x.cols - k);
    bad += code_strip<Format, T>(x.columns(k, n), power_of_two, codes.columns(k, n), scales + k / kTile);
  }
  return bad;
}

template <class Format, class T>
int64_t rows_as(const Context& ctx, ConstMat x, bool power_of_two, const ScaledBuffer& y) {
  Count bad;
  if (x.cols % kTile == 0 && x.contiguous() && y.codes.contiguous() && y.scales.contiguous()) {  // one long row of tiles
    for_ranges(ctx.team, {x.size() / kTile, kTaskElements / kTile}, [&](Range tiles, int) {
      const int64_t begin = tiles.begin * kTile, n = tiles.end * kTile - begin;
      bad.add(code_rows<Format, T>({x.row<T>(0) + begin, x.dtype, 1, n, n}, kLanes, power_of_two,
                                   {y.codes.row<uint8_t>(0) + begin, y.codes.dtype, 1, n, n}, y.scales.row<float>(0) + tiles.begin));
    });
  } else {
    for_ranges(ctx.team, split_rows(x.rows, x.cols), [&](Range rows, int) {
      for (int64_t r = rows.begin; r < rows.end; ++r)
        bad.add(code_rows<Format, T>(x.row_range(r, 1), kLanes, power_of_two, y.codes.row_range(r, 1), y.scales.row<float>(r)));
    });
  }
  return bad.total();
}

int64_t quantize_rows(const Context& ctx, ConstMat x, const Quantization& q, const ScaledBuffer& y) {
  if (x.dtype != DType::bf16 && x.dtype != DType::f32) return reference().quantize_rows(ctx, x, q, y);
  const bool e4 = q.format == DType::e4m3, half = x.dtype == DType::bf16;
  const auto run = e4 ? half ? rows_as<e4m3, uint16_t> : rows_as<e4m3, float> : half ? rows_as<e5m2, uint16_t> : rows_as<e5m2, float>;
  return run(ctx, x, q.power_of_two, y);
}

// ---- 128×128 blocks

// Tiles along rows that come in runs (the tensors stacked in a group, the groups of a product), and where a tile lies. All of a call's
// tiles are one set of tasks: a set for each of many small runs would spend its time on beginning and ending.
struct RowTile {
  int64_t row, rows;
};
template <class RowsOf>  // rows_of(i): rows of run i
RowTile row_tile(int64_t tile, RowsOf rows_of) {
  int64_t first = 0;
  for (size_t run = 0;; ++run) {
    const int64_t rows = rows_of(run), tiles = tiles_of(rows);
    if (tile < tiles) return {first + tile * kTile, smaller(kTile, rows - tile * kTile)};
    tile -= tiles;
    first += rows;
  }
}

template <class Format, class T>
int64_t blocks_as(const Context& ctx, ConstMat w, int64_t groups, std::span<const int64_t> parts, bool power_of_two,
                  const ScaledBuffer& y) {
  constexpr int64_t kStrip = 4;  // blocks side by side: some 256 KiB of f32
  const int64_t rows = w.rows / groups, tiles = row_tiles(rows, parts), strips = (tiles_of(w.cols) + kStrip - 1) / kStrip;
  Count bad;
  for_ranges(ctx.team, {groups * tiles * strips, 1}, [&](Range task, int) {
    const int64_t tile = task.begin / strips, k = task.begin % strips * kStrip * kTile, n = smaller(kStrip * kTile, w.cols - k);
    const RowTile in_group = row_tile(tile % tiles, [&](size_t i) { return parts.empty() ? rows : parts.data()[i]; });
    const int64_t row = tile / tiles * rows + in_group.row;
    bad.add(code_strip<Format, T>(w.row_range(row, in_group.rows).columns(k, n), power_of_two,
                                  y.codes.row_range(row, in_group.rows).columns(k, n), y.scales.row<float>(tile) + k / kTile));
  });
  return bad.total();
}

int64_t quantize_blocks(const Context& ctx, ConstMat w, int64_t groups, std::span<const int64_t> parts, const Quantization& q,
                        const ScaledBuffer& y) {
  if (w.dtype != DType::bf16 && w.dtype != DType::f32) return reference().quantize_blocks(ctx, w, groups, parts, q, y);
  const bool e4 = q.format == DType::e4m3, half = w.dtype == DType::bf16;
  const auto run = e4     ? half ? blocks_as<e4m3, uint16_t> : blocks_as<e4m3, float>
                       : half ? blocks_as<e5m2, uint16_t>
                          : blocks_as<e5m2, float>;
  return run(ctx, w, groups, parts, q.power_of_two, y);
}

// ---- 128×1 tiles

constexpr int64_t kColumns = 512;  // of a strip: with 128 rows 128 KiB of bf16, read in long pieces
constexpr int64_t kVectors = kColumns / kLanes;

// Where the elements of a strip come from: a plain matrix …
template <class T>
struct Plain {
  ConstMat x;
  const T* place(int64_t row, int64_t column) const { return x.row<T>(row) + column; }
  vf at(int64_t row, int64_t column, int64_t n) const { return load(x.row<T>(row) + column, n); }
  void tile(int64_t row, int64_t column, Pairs (&y)[4]) const {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) y[i] = load_pairs(place(row, column) + i * kPairElements);
  }
};
// … or one with 1×128 tiles.
template <class Format>
struct Tiled {
  ScaledMat x;
  const uint8_t* place(int64_t row, int64_t column) const { return x.codes.row<uint8_t>(row) + column; }
  vf at(int64_t row, int64_t column, int64_t n) const {
    return numbers_of<Format>(load_bytes(x.codes.row<uint8_t>(row) + column, n)) * x.scales.row<float>(row)[column / kTile];
  }
#if defined(__AVX512VBMI__)
  CodeReader reader{Format::Small::kFraction == e4m3::Small::kFraction ? DType::e4m3 : DType::e5m2};
  void tile(int64_t row, int64_t column, Pairs (&y)[4]) const {
    const float scale = x.scales.row<float>(row)[column / kTile];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      __m512i half[2];
      reader.read_in_order(_mm512_loadu_si512(place(row, column) + i * 64), half[0], half[1]);
      for (int j = 0; j < 2; ++j) {
        const vu both = bits_as<vu>(half[j]);
        y[2 * i + j] = {bits_as<vf>(both << 16) * scale, bits_as<vf>(both & 0xffff0000u) * scale};
      }
    }
  }
#endif
};

#if defined(__AVX512VBMI__)
// Whole tiles of columns side by side, as pairs of neighbours. False, and nothing written, where not all are finite.
template <class Format, class Source>
bool code_finite_columns(const Source& source, Range rows, Range columns, bool power_of_two, Mat codes, float* scales) {
  constexpr int64_t kRowsAtOnce = 4;
  struct Amax {
    vu even, odd;
  } amax[kColumns / kPairElements] = {};
  const int64_t count = (columns.end - columns.begin) / kPairElements;
  Pairs x[4];
  for (int64_t r = rows.begin; r < rows.end; r += kRowsAtOnce)
    for (int64_t i = 0; i < count; i += 4)
      for (int64_t row = r; row < smaller(r + kRowsAtOnce, rows.end); ++row) {
        source.tile(row, columns.begin + i * kPairElements, x);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          amax[i + j] = {larger(amax[i + j].even, magnitude_bits(x[j].even)), larger(amax[i + j].odd, magnitude_bits(x[j].odd))};
      }
  vu all = {};
  for (int64_t i = 0; i < count; ++i) all = larger(all, larger(amax[i].even, amax[i].odd));
  if (horizontal(all, [](vu a, vu b) { return larger(a, b); }) >= kInfinity) return false;
  Pairs inverse[kColumns / kPairElements];
  for (int64_t i = 0; i < count; ++i) {
    const Scales even = scales_of(bits_as<vf>(amax[i].even), Format::kLargest, power_of_two),
                 odd = scales_of(bits_as<vf>(amax[i].odd), Format::kLargest, power_of_two);
    inverse[i] = {even.inverse, odd.inverse};
    store_pairs(scales + i * kPairElements, Pairs{even.scale, odd.scale});
  }
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    uint8_t* to = codes.row<uint8_t>(r) + columns.begin;
    if (r + 1 < rows.end) ask_for_output(codes.row<uint8_t>(r + 1) + columns.begin, columns.end - columns.begin);
    for (int64_t i = 0; i < count; i += 4, to += kTile) {
      source.tile(r, columns.begin + i * kPairElements, x);
#pragma GCC unroll 2
      for (int j = 0; j < 4; j += 2) {
        const Pairs *y = x + j, *by = inverse + i + j;
        store_codes_of_64<Format>(y[0].even, y[0].odd, y[1].even, y[1].odd, by[0].even, by[0].odd, by[1].even, by[1].odd,
                                  to + j * kPairElements, kInPairs);
      }
    }
  }
  return true;
}
#endif

// A strip of at most 512 columns and 128 rows, which are one tile each. Returns how many hold NaN or infinity.
template <class Format, class Source>
int64_t code_columns(const Source& source, Range rows, Range columns, bool power_of_two, Mat codes, float* scales) {
#if defined(__AVX512VBMI__)
  if (const int64_t whole = (columns.end - columns.begin) / kTile * kTile;
      whole > 0 && code_finite_columns<Format>(source, rows, {columns.begin, columns.begin + whole}, power_of_two, codes, scales)) {
    columns.begin += whole;
    scales += whole;
  }
#endif
  const int64_t vectors = (columns.end - columns.begin + kLanes - 1) / kLanes;
  const auto lanes = [&](int64_t v) { return columns.end - columns.begin - v * kLanes; };
  const auto element = [&](int64_t r, int64_t v) { return source.at(r, columns.begin + v * kLanes, lanes(v)); };
  vu amax[kVectors] = {};
  for (int64_t r = rows.begin; r < rows.end; ++r)
    for (int64_t v = 0; v < vectors; ++v) amax[v] = larger(amax[v], magnitude_bits(element(r, v)));
  int64_t bad = 0;
  [[maybe_unused]] bool all_finite = true;  // wide vectors alone ask
  bool finite[kVectors];
  vf inverse[kVectors];
  for (int64_t v = 0; v < vectors; ++v) {
    int64_t here = 0;
    for (int i = 0; i < kLanes; ++i) here += amax[v][i] >= kInfinity;
    finite[v] = here == 0;
    if (here) {
      amax[v] = vu{};
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        const vu m = magnitude_bits(element(r, v));
        amax[v] = larger(amax[v], m < kInfinity ? m : vu{});
      }
      all_finite = false;
      bad += here;
    }
    const Scales s = scales_of(bits_as<vf>(amax[v]), Format::kLargest, power_of_two);
    inverse[v] = s.inverse;
    store(scales + v * kLanes, s.scale, lanes(v));
  }
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    uint8_t* code = codes.row<uint8_t>(r) + columns.begin;
    ask_for(source.place(r, columns.end), kColumns);
    ask_for_output(code + kColumns, kColumns);
    int64_t v = 0;
#if defined(__AVX512BW__)
    for (; all_finite && (v + 4) * kLanes <= columns.end - columns.begin; v += 4) {
      store_codes_of_64<Format>(element(r, v), element(r, v + 1), element(r, v + 2), element(r, v + 3), inverse[v], inverse[v + 1],
                                inverse[v + 2], inverse[v + 3], code + v * kLanes);
    }
#endif
    for (; v < vectors; ++v) store_bytes(code + v * kLanes, codes_of<Format>(element(r, v), inverse[v], finite[v]), lanes(v));
  }
  return bad;
}

template <class Format, class Source>
int64_t columns_as(const Context& ctx, const Source& source, int64_t columns, Offsets offsets, bool power_of_two, const ScaledBuffer& y) {
  const int64_t strips = (columns + kColumns - 1) / kColumns, *o = offsets.data();
  Count bad;
  for_ranges(ctx.team, {row_tiles(offsets) * strips, 1}, [&](Range task, int) {
    const int64_t tile = task.begin / strips, column = task.begin % strips * kColumns;
    const RowTile t = row_tile(tile, [&](size_t g) { return o[g + 1] - o[g]; });
    const int64_t row = o[0] + t.row;
    bad.add(code_columns<Format>(source, {row, row + t.rows}, {column, smaller(column + kColumns, columns)}, power_of_two, y.codes,
                                 y.scales.row<float>(tile) + column));
  });
  return bad.total();
}

template <class Format>
int64_t columns_from(const Context& ctx, const ScaledMat& x, Offsets offsets, bool power_of_two, const ScaledBuffer& y) {
  const int64_t columns = x.codes.cols;
  switch (x.codes.dtype) {
    case DType::bf16:
      return columns_as<Format>(ctx, Plain<uint16_t>{x.codes}, columns, offsets, power_of_two, y);
    case DType::e4m3:
      return columns_as<Format>(ctx, Tiled<e4m3>{x}, columns, offsets, power_of_two, y);
    case DType::e5m2:
      return columns_as<Format>(ctx, Tiled<e5m2>{x}, columns, offsets, power_of_two, y);
    default:
      return columns_as<Format>(ctx, Plain<float>{x.codes}, columns, offsets, power_of_two, y);
  }
}

int64_t quantize_columns(const Context& ctx, const ScaledMat& x, Offsets offsets, const Quantization& q, const ScaledBuffer& y) {
  return (q.format == DType::e4m3 ? columns_from<e4m3> : columns_from<e5m2>)(ctx, x, offsets, q.power_of_two, y);
}

// ---- and back

// Elements of codes of a row whose scales are those of its runs of 128.
template <class Format, class T>
inline void decode_row(const uint8_t* codes, const float* scales, Range columns, T* y) {
  for (int64_t i = columns.begin; i < columns.end; i += kLanes) {
    ask_for_output(y + i + kAhead<T>, kLanes);
    store(y + i, numbers_of<Format>(load_bytes(codes + i, columns.end - i)) * scales[i / kTile], columns.end - i);
  }
}

template <class Format, class T>
void decode_rows_as(const Context& ctx, const ScaledMat& x, Mat y) {
  for_ranges(ctx.team, split_rows(y.rows, y.cols), [&](Range rows, int) {
    for (int64_t r = rows.begin; r < rows.end; ++r)
      decode_row<Format>(x.codes.row<uint8_t>(r), x.scales.row<float>(r), {0, y.cols}, y.row<T>(r));
  });
}

void dequantize_rows(const Context& ctx, const ScaledMat& x, Mat y) {
  if (y.dtype != DType::bf16 && y.dtype != DType::f32) return reference().dequantize_rows(ctx, x, y);
  const bool e4 = x.codes.dtype == DType::e4m3, half = y.dtype == DType::bf16;
  const auto run = e4     ? half ? decode_rows_as<e4m3, uint16_t> : decode_rows_as<e4m3, float>
                       : half ? decode_rows_as<e5m2, uint16_t>
                          : decode_rows_as<e5m2, float>;
  run(ctx, x, y);
}

template <class Format, class T>
void decode_blocks_as(const Context& ctx, const WeightView& w, Mat y) {
  const int64_t tiles = row_tiles(w.rows, w.parts);
  for_ranges(ctx.team, split_rows(y.rows, y.cols), [&](Range rows, int) {
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const int64_t tile = r / w.rows * tiles + row_tile_of(r % w.rows, w.parts);
      decode_row<Format>(static_cast<const uint8_t*>(w.data) + r * w.cols, w.scales.row<float>(tile), {0, y.cols}, y.row<T>(r));
    }
  });
}

void dequantize_blocks(const Context& ctx, const WeightView& w, Mat y) {
  if (y.dtype != DType::bf16 && y.dtype != DType::f32) return reference().dequantize_blocks(ctx, w, y);
  const bool e4 = w.dtype == DType::e4m3, half = y.dtype == DType::bf16;
  const auto run = e4     ? half ? decode_blocks_as<e4m3, uint16_t> : decode_blocks_as<e4m3, float>
                       : half ? decode_blocks_as<e5m2, uint16_t>
                          : decode_blocks_as<e5m2, float>;
  run(ctx, w, y);
}

}  // namespace

void add_quantize(Table& table) {
  table.quantize_rows = quantize_rows;
  table.quantize_columns = quantize_columns;
  table.quantize_blocks = quantize_blocks;
  table.dequantize_rows = dequantize_rows;
  table.dequantize_blocks = dequantize_blocks;
}

}  // namespace finback::kernels::FB_ISA
