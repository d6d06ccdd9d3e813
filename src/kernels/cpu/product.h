// c_MN = [addend_MN +] a_MK · b_KN for a list of groups, by panels of b and blocks of a's rows.
//
//   panels   kPanel columns of b are packed once a call, by all threads, as many panels as the scratch memory holds at a time.
//            A group that has a single block of rows packs slices of a panel where they are used, in cache: decoding reads the
//            weights once and writes nothing back; so does the task that multiplies a whole group, where groups are many and small:
//            slice by slice, each of them met by all blocks of the group's rows.
//            Weights that were packed before (pack_weights) are used as they stand.
//   tasks    a block of rows times some panels; k in slices, the sums of a block carried from one to the next (tile.h). For matrix
//            registers a tile's rows meet a chunk of panels one after the other, while they are in the first cache.
//   a        is read in place where its units lie contiguous along k, and packed a block and slice at a time elsewhere.
//   codes    FP8 operands are decoded run by run of 128 along k (or less, where scales change), then packed like any other.
//
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "kernels/cpu/codes.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/tile_amx.h"
#include "kernels/kernels.h"

namespace {

using finback::kernels::Context;
using finback::kernels::DType;

constexpr int64_t kSliceUnits = kMatrices ? 512 : 128;                  // a panel of b in the first cache
constexpr int64_t kMaxTaskPanels = (kMatrices ? 1024 : 4096) / kPanel;  // bounds the carried sums of a task
constexpr int64_t kMinTaskPanels = 256 / kPanel;                        // where there are enough: a block's rows are packed once a task
constexpr int64_t kTasksAThread = kMatrices ? 4 : 16;                   // at least, where there is enough to do: uneven groups, a busy core
constexpr int64_t kTaskWork = int64_t{8} << 20;                         // multiply-adds of units, some tens of microseconds
constexpr int64_t kPackedUnits = (int64_t{48} << 20) / 4;               // of the 64 MiB that kernels may take
constexpr int64_t kPackingRows = 8;                                     // packing a panel costs about as much as so many rows of product

// Scales of an operand's lines (rows of a, columns of b) and runs; an index says which one where several share it, or is null.
struct Scales {
  int64_t line_stride, run_stride;
  const int32_t *line_index, *run_index;
  float at(const float* scales, int64_t line, int64_t run) const {
    return scales[(line_index ? line_index[line] : line) * line_stride + (run_index ? run_index[run] : run) * run_stride];
  }
};

struct Group {
  int64_t m, k;
  const char *a, *b;
  char* c;
  const char* addend;  // or null
  const float *a_scale, *b_scale;
};

struct Product {
  DType a_dtype, b_dtype;  // f32 or bf16, the same; or codes
  bool a_k_contiguous, b_k_contiguous;
  bool b_packed;               // b is pack_weights': panels, or strips of codes
  int64_t a_stride, b_stride;  // elements
  int64_t n;
  DType c_dtype;  // f32 or bf16, and the addend's
  int64_t c_stride, addend_stride;
  Group* groups;
  int64_t group_count;
  // Of codes alone.
  Scales a_scales, b_scales;
  const int64_t* run_begin;  // where along k each run begins, and the end; null: every 128
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Runs of codes along k.
inline int64_t begin_of_run(const Product& p, const Group& g, int64_t run) { return p.run_begin ? p.run_begin[run] : min(run * 128, g.k); }
inline int64_t runs_of(const Product& p, const Group& g) {
  if (!p.run_begin) return ceil_div(g.k, 128);
  int64_t runs = 0;
  while (p.run_begin[runs] < g.k) ++runs;
  return runs;
}

// How many units the sum of a group has. Every run of codes but the last fills its units up with zeros; for matrix registers the last
// does too, as do numbers where both operands are packed, so that all squares are whole.
template <bool kPairs, bool kScaled>
int64_t units_of(const Product& p, const Group& g) {
  int64_t units = units_of(g.k, kPairs);
  if constexpr (kScaled) {
    const int64_t last = runs_of(p, g) - 1;
    units = last * kRunUnits<kPairs> + units_of(g.k - begin_of_run(p, g, last), kPairs);
  }
  return kMatrices && (kScaled || !p.a_k_contiguous) ? ceil_div(units, 16) * 16 : units;
}

// Some panels of one group, packed or not.
struct Part {
  const Group* group;
  int64_t units, runs;
  int64_t panel_begin, panel_end;
  const uint32_t* packed;  // or null: packed where they are used
  const float* packed_scales;
  int64_t blocks, blocks_per_task, panels_per_task;
  int64_t first_packing, first_task;
};

struct ThreadBuffers {
  uint32_t* a;      // packed, a tile after the other, each [kSliceUnits, kTileRows]; or rows of kARow bytes
  uint32_t* units;  // packed rows of a, [kRunUnits, kBlockRows], before they are laid out for tiles; and a register
  uint32_t* b;      // panels, each [kSliceUnits, kPanel]: as many as are held at a time
  float* carry;     // [kBlockRows, kMaxTaskPanels · kPanel]
  float* a_scale;   // [kSliceRuns, kBlockRows]
  float* b_scale;   // panels, each [kSliceRuns, kPanel]
  void* decoded;    // numbers of a run: [kPanel, 128] of lines along k, or [128, kAcross] of lines side by side
};
constexpr int64_t kSliceRuns = kSliceUnits / 64;  // at most
constexpr int64_t kARow = kSliceUnits * 4 + 64;   // so that rows do not fall into the same few lines of the cache
// Where b comes from caches too slowly for matrix registers, a tile's rows meet several panels while they are in the nearest cache: as many
// words of panels as lie in the second one beside a block's rows.
constexpr int64_t kChunkUnits = int64_t{192} << 10;
constexpr int64_t kChunkPanels = kMatrices ? 64 : 1;
constexpr int64_t kHeldPanels = 1024 / kPanel;  // that stay in the second cache for all blocks of a group
constexpr int64_t kGroupsAThread = 4;           // so many, and a task is a whole group
constexpr int64_t kAcross = max(128, kBlockRows);

struct Work {
  const Product* product;
  Part* parts;
  int64_t part_count;
  ThreadBuffers* threads;
};

// `width` lines from `line` on, `count` of them there, units begin … end−1, as pack() lays them, in strips of kStripWidth lines that
// begin `strip` words apart, zeros beyond the last. Lines side by side are read some rows at a time across all strips.
template <class T, bool kPairs, int kStripWidth>
void pack_strips(const Operand& from, int64_t line, int64_t width, int64_t count, int64_t begin, int64_t end, int64_t strip, uint32_t* to) {
  const int64_t there = min(end, units_of(from.k, kPairs)), at_once = from.k_contiguous ? max(1, there - begin) : 8;
  for (; begin < there; begin += at_once, to += at_once * kStripWidth)
    for (int64_t j = 0; j < width; j += kStripWidth)
      pack<T, kPairs, kStripWidth>(from, line + j, max(0, min(count - j, kStripWidth)), begin, min(begin + at_once, there),
                                   to + j / kStripWidth * strip);
  if (there == end) return;
  to -= (begin - there) * kStripWidth;
  for (int64_t j = 0; j < width; j += kStripWidth, to += strip) memset(to, 0, static_cast<size_t>((end - there) * kStripWidth) * 4);
}

#if defined(__AVX512VBMI__)
// `units` pairs of `rows` rows of codes that stand side by side, decoded where they are laid out: as pack_strips. Zeros beyond the rows.
template <int kStripWidth>
void pack_code_pairs(const CodeReader& reader, const uint8_t* from, int64_t stride, int64_t rows, int64_t width, int64_t count,
                     int64_t units, int64_t strip, uint32_t* to) {
  constexpr int64_t kAhead = 16;  // rows fetched in advance
  for (int64_t u = 0; u < units; ++u, from += 2 * stride, to += kStripWidth)
    for (int64_t j = 0; j < width; j += 64) {
      const int64_t there = max(0, min(64, count - j));
      const __mmask64 mask = there == 64 ? ~__mmask64{0} : (__mmask64{1} << there) - 1;
      const __mmask64 first = 2 * u < rows ? mask : 0, second = 2 * u + 1 < rows ? mask : 0;
      __builtin_prefetch(from + kAhead * stride + j);
      __builtin_prefetch(from + (kAhead + 1) * stride + j);
      __m512i pairs[4];
      reader.pairs(_mm512_maskz_loadu_epi8(first, from + j), _mm512_maskz_loadu_epi8(second, from + stride + j), pairs);
#pragma GCC unroll 4
      for (int64_t at = j, i = 0; i < 4; ++i, at += 16)
        if (at < width) _mm512_storeu_si512(to + at / kStripWidth * strip + at % kStripWidth, pairs[i]);
    }
}
#endif

// The same of codes, decoded run by run.
template <class T, bool kPairs, int kStripWidth>
void pack_codes(const Product& p, const Group& g, const Operand& from, DType dtype, int64_t line, int64_t width, int64_t count,
                int64_t begin, int64_t end, int64_t strip, void* decoded, uint32_t* to) {
  const RowReader<T> reader(dtype);
  const auto* codes = reinterpret_cast<const uint8_t*>(from.data);
  T* rows = static_cast<T*>(decoded);
  const Operand numbers{static_cast<const char*>(decoded), from.k_contiguous ? 128 : kAcross, from.k_contiguous, kAcross, 128};
  for (; begin < end; begin += kRunUnits<kPairs>) {
    const int64_t k = begin_of_run(p, g, begin / kRunUnits<kPairs>), k_end = begin_of_run(p, g, begin / kRunUnits<kPairs> + 1);
    const int64_t units = min(kRunUnits<kPairs>, end - begin);
#if defined(__AVX512VBMI__)
    if constexpr (kPairs)
      if (!from.k_contiguous) {
        pack_code_pairs<kStripWidth>(reader, codes + k * from.stride + line, from.stride, k_end - k, width, count, units, strip, to);
        to += units * kStripWidth;
        continue;
      }
#endif
    if (from.k_contiguous) {
      for (int64_t j = 0; j < count; ++j) {
        reader.row(codes + (line + j) * from.stride + k, k_end - k, rows + j * 128);
        if (k_end - k <= 64) memset(rows + j * 128 + 64, 0, 64 * sizeof(T));
      }
    } else {
      for (int64_t i = k; i < k_end; ++i) reader.row(codes + i * from.stride + line, count, rows + (i - k) * kAcross);
      // What a short run leaves of its units is zero.
      memset(rows + (k_end - k) * kAcross, 0, static_cast<size_t>((128 - (k_end - k)) * kAcross) * sizeof(T));
    }
    pack_strips<T, kPairs, kStripWidth>(numbers, 0, width, count, 0, units, strip, to);
    to += units * kStripWidth;
  }
}

template <int kWidth>
void gather_scales(const Scales& s, const float* scales, int64_t line, int64_t count, int64_t run, int64_t run_end, float* to) {
  for (; run < run_end; ++run, to += kWidth)
    for (int64_t j = 0; j < count; ++j) to[j] = s.at(scales, line + j, run);
}

// A group's packed codes: strips of 16 columns, each of them runs of 128 codes along k.
inline int64_t packed_codes_of(int64_t n, int64_t k) { return ceil_div(n, kPanel) * kPanel * ceil_div(k, 128) * 128; }

inline const uint8_t* codes_of_strip(const Group& g, int64_t column, int64_t unit, bool pairs) {
  return reinterpret_cast<const uint8_t*>(g.b) + column / 16 * (ceil_div(g.k, 128) * 128 * 16) + unit * (pairs ? 32 : 16);
}
template <bool kPairs>
void read_panel(const Product& p, const Group& g, int64_t panel, int64_t begin, int64_t end, int64_t strip, uint32_t* to) {
  for (int64_t j = 0; j < kPanel; j += 16)
    read_strip<kPairs, kStrip>(codes_of_strip(g, panel * kPanel + j, begin, kPairs), end - begin, p.b_dtype,
                               kMatrices ? to + j / 16 * strip : to + j);
}

// How many panels are packed together: where lines stand side by side, long pieces of rows.
inline int64_t panels_at_once(const Product& p) { return p.b_packed || p.b_k_contiguous ? 1 : kAcross / kPanel; }

// Units begin … end−1 of a few panels; strips of columns begin `strip` words apart, and the scales of panels `panel_scales`.
// to null: the scales alone.
template <class T, bool kPairs, bool kScaled>
void pack_b(const Product& p, const Group& g, int64_t panel, int64_t panels, int64_t begin, int64_t end, int64_t strip, void* decoded,
            uint32_t* to, float* to_scales, int64_t panel_scales) {
  const int64_t column = panel * kPanel, columns = min(panels * kPanel, p.n - column);
  const Operand b{g.b, p.b_stride, p.b_k_contiguous, p.n, g.k};
  if constexpr (kScaled) {
    if (to && p.b_packed) read_panel<kPairs>(p, g, panel, begin, end, strip, to);
    else if (to) pack_codes<T, kPairs, kStrip>(p, g, b, p.b_dtype, column, panels * kPanel, columns, begin, end, strip, decoded, to);
    for (int64_t j = 0; j < columns; j += kPanel, to_scales += panel_scales)
      gather_scales<kPanel>(p.b_scales, g.b_scale, column + j, min(kPanel, columns - j), begin / kRunUnits<kPairs>,
                            ceil_div(end, kRunUnits<kPairs>), to_scales);
  } else {
    pack_strips<T, kPairs, kStrip>(b, column, panels * kPanel, columns, begin, end, strip, to);
  }
}

template <class T, bool kPairs, bool kScaled>
void packing_task(void* argument, int64_t task, int thread) {
  const Work& work = *static_cast<const Work*>(argument);
  const Part* part = work.parts;
  while (part + 1 < work.parts + work.part_count && part[1].first_packing <= task) ++part;
  const int64_t at_once = panels_at_once(*work.product), panel = (task - part->first_packing) * at_once;
  pack_b<T, kPairs, kScaled>(*work.product, *part->group, part->panel_begin + panel,
                             min(at_once, part->panel_end - part->panel_begin - panel), 0, part->units, part->units * kStrip,
                             work.threads[thread].decoded, const_cast<uint32_t*>(part->packed) + panel * part->units * kPanel,
                             const_cast<float*>(part->packed_scales) + panel * part->runs * kPanel, part->runs * kPanel);
}

// Row `row` of a, decoded or turned, from unit `unit` on.
inline char* row_of_a(const ThreadBuffers& buffers, int64_t row, int64_t unit) {
  return reinterpret_cast<char*>(buffers.a) + row * kARow + unit * 4;
}

// Where the packed rows of tile t stand.
inline uint32_t* tile_of_a(const ThreadBuffers& buffers, int64_t t) { return buffers.a + t * kTileRows * (kARow / 4); }

// Rows of a for matrix registers from `units` units of `rows` packed ones.
inline void turn_packed(const uint32_t* packed, int64_t rows, int64_t unit, int64_t units, const ThreadBuffers& buffers) {
  for (int64_t u = 0; u < units; u += kRegister)
    for (int64_t i = 0; i < rows; i += kRegister) {
      vw r[kRegister];
#pragma GCC unroll 16
      for (int j = 0; j < kRegister; ++j) r[j] = u + j < units ? load_units(packed + (u + j) * kBlockRows + i) : vw{};
      transpose(r);
#pragma GCC unroll 16
      for (int j = 0; j < kRegister; ++j) store_units(reinterpret_cast<uint32_t*>(row_of_a(buffers, i + j, unit + u)), r[j]);
    }
}

// Tile after tile of `units` units of packed rows, so that a tile reads memory in order: tile t's rows begin at row[t]. What a register
// holds beyond a tile's rows is overwritten by the next unit's.
inline void part_tiles(const uint32_t* packed, const int64_t* row, int64_t tiles, int64_t unit, int64_t units,
                       const ThreadBuffers& buffers) {
  static_assert(kMatrices || kTileRows <= kRegister);
  for (int64_t u = 0; u < units; ++u, packed += kBlockRows)
    for (int64_t t = 0; t < tiles; ++t) store_units(tile_of_a(buffers, t) + (unit + u) * kTileRows, load_units(packed + row[t] - row[0]));
}

// The block's rows of a that are not read in place, those of tile t from row[t] on, units begin … end−1.
template <class T, bool kPairs, bool kScaled>
void pack_a(const Product& p, const Group& g, const int64_t* row, int64_t tiles, int64_t begin, int64_t end, const ThreadBuffers& buffers) {
  const Operand a{g.a, p.a_stride, p.a_k_contiguous, g.m, g.k};
  const int64_t rows = row[tiles] - row[0];
  constexpr int64_t kAtOnce = kScaled ? kRunUnits<kPairs> : 16;
  for (int64_t u = begin; u < end; u += kAtOnce) {
    const int64_t units = min(kAtOnce, end - u);
    if constexpr (kScaled)
      pack_codes<T, kPairs, kBlockRows>(p, g, a, p.a_dtype, row[0], kBlockRows, rows, u, u + units, 0, buffers.decoded, buffers.units);
    else pack_strips<T, kPairs, kBlockRows>(a, row[0], kBlockRows, rows, u, u + units, 0, buffers.units);
    if (kMatrices) turn_packed(buffers.units, rows, u - begin, units, buffers);
    else part_tiles(buffers.units, row, tiles, u - begin, units, buffers);
  }
}

// The same of codes that lie contiguous along k.
template <class T, bool kPairs>
void decode_a(const Product& p, const Group& g, int64_t row, int64_t rows, int64_t begin, int64_t end, const ThreadBuffers& buffers) {
  const auto* from = reinterpret_cast<const uint8_t*>(g.a) + row * p.a_stride;
  const RowReader<T> reader(p.a_dtype);
  for (int64_t unit = begin; unit < end; unit += kRunUnits<kPairs>) {
    const int64_t k = begin_of_run(p, g, unit / kRunUnits<kPairs>), length = begin_of_run(p, g, unit / kRunUnits<kPairs> + 1) - k;
    const uint8_t* codes = from + k;
    for (int64_t i = 0; i < rows; ++i, codes += p.a_stride) {
      T* to = reinterpret_cast<T*>(row_of_a(buffers, i, unit - begin));
      reader.row(codes, length, to);
      if (length <= 64) memset(to + 64, 0, 64 * sizeof(T));
    }
  }
}

// The function for a tile of `rows` rows, 1 … kTileRows, and of as many registers' columns, 1 … kVectors.
template <bool kPairs, bool kPackedA, bool kScaled, int kRows = kTileRows, int kColumns = kVectors>
TileFunction tile_function([[maybe_unused]] int64_t rows, [[maybe_unused]] int64_t columns) {
#if defined(__AMX_BF16__)
  static_assert(kPairs);
  return multiply_tile_amx<kScaled>;
#else
  if constexpr (kRows > 1)
    if (rows < kRows) return tile_function<kPairs, kPackedA, kScaled, kRows - 1, kColumns>(rows, columns);
  if constexpr (kColumns > 1)
    if (columns < kColumns) return tile_function<kPairs, kPackedA, kScaled, kRows, kColumns - 1>(rows, columns);
  return multiply_tile<kPairs, kPackedA, kScaled, kRows, kColumns>;
#endif
}

// What tile t of a block, while it multiplies its first panel, fetches of a: the next tile's rows where a is read in place; where
// lines along k are packed, its share of the next slice's.
template <class T, bool kPairs, bool kPackedA>
inline void fetch_a(const Product& p, const Group& g, const char* a, int64_t a_row, int64_t first_row, int64_t t, int64_t slice_end,
                    Fetch& fetch) {
  if (!kPackedA) {
    fetch.next = a + kTileRows * a_row;
    fetch.stride = a_row;
    fetch.step = kFetchUnits * 4;
  } else if (!p.a_k_contiguous) {
    constexpr int64_t kStep = kPairs ? 2 : 1, kRowsATile = kSliceUnits / kFetchUnits * kFetchRows,
                      kTilesALine = kSliceUnits * kStep / kRowsATile;
    const int64_t k = slice_end * kStep + t % kTilesALine * kRowsATile;
    fetch.next = g.a + k * a_row + first_row * static_cast<int64_t>(sizeof(T)) + t / kTilesALine * 64;
    fetch.stride = a_row;
    fetch.step = kFetchRows * a_row;
  }
}

// What tile t, while it multiplies a later panel, fetches of the panel that comes next: its share of `words` from `next` on.
inline void fetch_b(const uint32_t* next, int64_t words, int64_t t, Fetch& fetch) {
  constexpr int64_t kLine = 64 / 4, kShare = kSliceUnits / kFetchUnits * kFetchRows * kLine;
  if (t * kShare < words) fetch = {reinterpret_cast<const char*>(next + t * kShare), kLine * 4, kFetchRows * kLine * 4};
}

inline void fetch_output(const TileOutput& out, int64_t rows, int64_t bytes) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t at = 0; at < bytes; at += 64) {
      __builtin_prefetch(out.c + i * out.c_stride + at, 1);
      if (out.addend) __builtin_prefetch(out.addend + i * out.addend_stride + at);
    }
}

// Panels that a tile's rows meet in turn, and that are packed at a time where a single block of rows meets them.
inline int64_t chunk_of(int64_t slice_units) { return min(kChunkPanels, max(1, kChunkUnits / max(1, slice_units * kPanel))); }

// The same where several blocks meet them.
inline int64_t held_of(int64_t units) { return kMatrices ? chunk_of(min(units, kSliceUnits)) : kHeldPanels; }

// What one thread multiplies at a time: some blocks of rows by some panels.
struct Task {
  int64_t first_block, last_block, panel_begin, panel_end;
};

// A block of rows times a task's panels, units begin … end−1. Panels that several blocks of a task meet stay as the first one packed them.
template <class T, bool kPairs, bool kPackedA, bool kScaled>
void product_slice(const Product& p, const Part& part, const Task& task, int64_t block, int64_t begin, int64_t end,
                   const ThreadBuffers& buffers, ShapesInUse& shapes) {
  const Group& g = *part.group;
  constexpr bool kInPlace = !kPackedA && !kScaled;
  const int64_t units = part.units, a_stride = p.a_stride * static_cast<int64_t>(sizeof(T));
  const int64_t c_size = finback::core::size_of(p.c_dtype);
  // Rows are shared out evenly: 50 rows are nine tiles of 5 and 6, not eight of 6 and one of 2.
  const int64_t all_tiles = ceil_div(g.m, kTileRows);
  const int64_t tile_begin = all_tiles * block / part.blocks, tiles = all_tiles * (block + 1) / part.blocks - tile_begin;
  int64_t row[kBlockTiles + 1];
  for (int64_t t = 0; t <= tiles; ++t) row[t] = kMatrices ? min(g.m, (tile_begin + t) * kTileRows) : g.m * (tile_begin + t) / all_tiles;

  TileOutput out;
  out.first = begin == 0;
  out.last = end == units;
  out.c_stride = p.c_stride * c_size;
  out.addend_stride = p.addend_stride * c_size;
  out.bf16 = p.c_dtype == DType::bf16;
  const int64_t run = begin / kRunUnits<kPairs>;
  const int64_t rows = row[tiles] - row[0];
  if constexpr (kPackedA) pack_a<T, kPairs, kScaled>(p, g, row, tiles, begin, end, buffers);
  else if constexpr (kScaled) decode_a<T, kPairs>(p, g, row[0], rows, begin, end, buffers);
  if constexpr (kScaled)
    gather_scales<kBlockRows>(p.a_scales, g.a_scale, row[0], rows, run, ceil_div(end, kRunUnits<kPairs>), buffers.a_scale);
  const int64_t slice_panel = (end - begin) * kPanel, chunk = chunk_of(end - begin);
  const bool shared = task.last_block - task.first_block > 1;
  const int64_t held = shared ? task.panel_end - task.panel_begin : chunk;  // panels that are packed where they are used, at a time
  for (int64_t chunk_begin = task.panel_begin; chunk_begin < task.panel_end; chunk_begin += chunk) {
    const int64_t chunk_end = min(chunk_begin + chunk, task.panel_end), first_held = shared ? task.panel_begin : chunk_begin;
    TileInput in{.a_row = kInPlace ? a_stride : kARow, .units = end - begin, .shapes = &shapes, .b_codes = {}, .b_dtype = p.b_dtype};
    in.b_strip = (part.packed ? units : end - begin) * kStrip;
    // A panel of packed codes that a single tile meets is decoded there.
    const bool decode_in_tile = kMatrices && kScaled && p.b_packed && !part.packed && tiles == 1 && part.blocks == 1;
    if (!part.packed && block == task.first_block && chunk_begin == first_held)
      for (int64_t i = 0; i < held && chunk_begin + i < task.panel_end; i += panels_at_once(p))
        pack_b<T, kPairs, kScaled>(p, g, chunk_begin + i, min(panels_at_once(p), min(held - i, task.panel_end - chunk_begin - i)), begin,
                                   end, in.b_strip, buffers.decoded, decode_in_tile ? nullptr : buffers.b + i * slice_panel,
                                   buffers.b_scale + i * kSliceRuns * kPanel, kSliceRuns * kPanel);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t i = row[t] - row[0];
      in.rows = row[t + 1] - row[t];
      in.a_scale = buffers.a_scale + i;
      if (kInPlace) in.a = g.a + row[t] * a_stride + begin * 4;
      else in.a = kPackedA && !kMatrices ? reinterpret_cast<const char*>(tile_of_a(buffers, t)) : row_of_a(buffers, i, 0);
      in.fetch = {in.a, 0, 0};
      if (!kScaled && chunk_begin == task.panel_begin) fetch_a<T, kPairs, kPackedA>(p, g, in.a, a_stride, row[0], t, end, in.fetch);
      for (int64_t panel = chunk_begin; panel < chunk_end; ++panel) {
        if (part.packed) {
          in.b = part.packed + (panel - part.panel_begin) * units * kPanel + begin * kStrip;
          in.b_scale = part.packed_scales + ((panel - part.panel_begin) * part.runs + run) * kPanel;
          if (!kScaled && !kMatrices && panel > task.panel_begin) {
            if (panel + 1 < task.panel_end) fetch_b(in.b + units * kPanel, slice_panel, t, in.fetch);
            else if (!out.last)
              fetch_b(part.packed + (task.panel_begin - part.panel_begin) * units * kPanel + end * kStrip, slice_panel, t, in.fetch);
          }
        } else {
          in.b = buffers.b + (panel - first_held) * slice_panel;
          in.b_scale = buffers.b_scale + (panel - first_held) * kSliceRuns * kPanel;
        }
        const int64_t column = panel * kPanel;
        if (decode_in_tile)
          for (int strip = 0; strip < 2; ++strip) in.b_codes[strip] = codes_of_strip(g, column + strip * 16, begin, kPairs);
        out.cols = static_cast<int>(min(kPanel, p.n - column));
        // A product of one slice carries nothing: its sums pass through the same few lines of the cache.
        const int64_t carried = (block - task.first_block) * (task.panel_end - task.panel_begin) + panel - task.panel_begin;
        out.carry = buffers.carry + (out.first && out.last ? 0 : (carried * kBlockRows + t * kTileRows) * kPanel);
        out.c = g.c + row[t] * out.c_stride + column * c_size;
        out.addend = g.addend ? g.addend + row[t] * out.addend_stride + column * c_size : nullptr;
        if (out.last && !kMatrices) fetch_output(out, in.rows, out.cols * c_size);
        tile_function<kPairs, kPackedA, kScaled>(in.rows, ceil_div(out.cols, kRegister))(in, out);
      }
    }
  }
}

template <class T, bool kPairs, bool kScaled>
void product_task(void* argument, int64_t index, int thread) {
  const Work& work = *static_cast<const Work*>(argument);
  const Product& p = *work.product;
  const Part* part = work.parts;
  while (part + 1 < work.parts + work.part_count && part[1].first_task <= index) ++part;
  const int64_t within = index - part->first_task, ranges = ceil_div(part->blocks, part->blocks_per_task);
  Task task;
  task.first_block = within % ranges * part->blocks_per_task;
  task.last_block = min(task.first_block + part->blocks_per_task, part->blocks);
  task.panel_begin = part->panel_begin + within / ranges * part->panels_per_task;
  task.panel_end = min(task.panel_begin + part->panels_per_task, part->panel_end);
  const bool in_place = p.a_k_contiguous && (kScaled || sizeof(T) == 4 || (kPairs && part->group->k % 2 == 0));
  const auto multiply = in_place ? product_slice<T, kPairs, false, kScaled> : product_slice<T, kPairs, true, kScaled>;
  ShapesInUse shapes;
  for (int64_t begin = 0; begin == 0 || begin < part->units; begin += kSliceUnits)
    for (int64_t block = task.first_block; block < task.last_block; ++block)
      multiply(p, *part, task, block, begin, min(begin + kSliceUnits, part->units), work.threads[thread], shapes);
  shapes.release();
}

// As many panels as the scratch memory holds at a time, packed and multiplied.
template <class T, bool kPairs, bool kScaled>
void multiply_as(const Context& ctx, const Product& p) {
  const int64_t panels = ceil_div(p.n, kPanel), threads = ctx.team.threads();
  const auto take = [&](int64_t count, size_t size) { return ctx.scratch.take(count * static_cast<int64_t>(size)); };
  Work work{};
  work.product = &p;
  work.parts = static_cast<Part*>(take(p.group_count, sizeof(Part)));
  work.threads = static_cast<ThreadBuffers*>(take(threads, sizeof(ThreadBuffers)));
  for (int64_t t = 0; t < threads; ++t) {
    ThreadBuffers& b = work.threads[t];
    b.a = static_cast<uint32_t*>(take(kBlockRows * kARow, 1));
    b.units = static_cast<uint32_t*>(take((kScaled ? kRunUnits<kPairs> : 16) * kBlockRows + kRegister, 4));
    b.b = static_cast<uint32_t*>(take(kMatrices ? kChunkUnits : kHeldPanels * kSliceUnits * kPanel, 4));
    b.carry = static_cast<float*>(take(kBlockRows * kMaxTaskPanels * kPanel, 4));
    b.a_scale = static_cast<float*>(take(kSliceRuns * kBlockRows, 4));
    b.b_scale = static_cast<float*>(take(max(kChunkPanels, kHeldPanels) * kSliceRuns * kPanel, 4));
    b.decoded = take(kScaled ? 128 * max(kPanel, kAcross) : 0, sizeof(T));
  }
  const int64_t mark = ctx.scratch.mark();
  int64_t next_group = 0, next_panel = 0;
  while (next_group < p.group_count) {
    work.part_count = 0;
    int64_t room = kPackedUnits, packings = 0, block_panels = 0;
    while (next_group < p.group_count) {
      const Group& g = p.groups[next_group];
      Part part{};
      part.group = &g;
      part.units = units_of<kPairs, kScaled>(p, g);
      part.runs = kScaled ? runs_of(p, g) : 0;
      part.blocks = ceil_div(g.m, kBlockRows);
      part.blocks_per_task = 1;
      part.panel_begin = next_panel;
      part.panel_end = panels;
      part.first_packing = packings;
      const int64_t panel_units = (part.units + part.runs) * kPanel;
      if (p.b_packed && !kScaled) {
        part.packed = reinterpret_cast<const uint32_t*>(g.b) + next_panel * part.units * kPanel;
      } else if (part.blocks > 1 && p.group_count >= kGroupsAThread * threads && panels <= held_of(part.units) &&
                 (part.units <= kSliceUnits || part.blocks * panels <= kMaxTaskPanels)) {
        part.blocks_per_task = part.blocks;
      } else if (part.blocks > 1 && panel_units <= kPackedUnits) {
        part.panel_end = min(panels, next_panel + room / max(1, panel_units));
        const int64_t count = part.panel_end - part.panel_begin;
        if (count == 0) break;
        part.packed = static_cast<uint32_t*>(take(count * part.units * kPanel, 4));
        part.packed_scales = static_cast<float*>(take(count * part.runs * kPanel, 4));
        room -= count * panel_units;
        packings += ceil_div(count, panels_at_once(p));
      }
      block_panels += part.blocks * (part.panel_end - part.panel_begin);
      work.parts[work.part_count++] = part;
      next_panel = part.panel_end;
      if (next_panel < panels) break;
      next_panel = 0;
      ++next_group;
    }
    int64_t tasks = 0;
    for (int64_t i = 0; i < work.part_count; ++i) {
      Part& part = work.parts[i];
      const int64_t rows = ceil_div(part.group->m, part.blocks) + (part.packed ? 0 : kPackingRows);
      const int64_t count = part.panel_end - part.panel_begin;
      constexpr int64_t kFaster = kMatrices ? 8 : 1;
      // Where rows of a are packed, once a task, a task is as wide as may be.
      const int64_t least = kFaster * kMinTaskPanels * (kMatrices || p.a_k_contiguous ? 1 : 4);
      const int64_t wanted = max(kFaster * kTaskWork / max(1, rows * part.units * kPanel), least);
      const int64_t tasks_a_thread = p.a_k_contiguous ? kTasksAThread : 2;
      const int64_t most = max(1, min(min(wanted, block_panels / (tasks_a_thread * threads)), kMaxTaskPanels));
      const int64_t ranges = ceil_div(count, most);
      part.panels_per_task = part.blocks_per_task > 1 ? count : ceil_div(count, ranges);
      part.first_task = tasks;
      tasks += ceil_div(part.blocks, part.blocks_per_task) * ceil_div(count, part.panels_per_task);
    }
    ctx.team.run(packings, packing_task<T, kPairs, kScaled>, &work);
    ctx.team.run(tasks, product_task<T, kPairs, kScaled>, &work);
    ctx.scratch.release(mark);
  }
}

}  // namespace
