// c_MN = [addend_MN +] a_MK · b_KN for a list of groups, by panels of b and blocks of a's rows.
//
//   panels   kPanel columns of b are packed once a call, by all threads, as many panels as the scratch memory holds at a time.
//            A group that has a single block of rows packs slices of a panel where they are used, in cache: decoding reads the
//            weights once and writes nothing back.
//   tasks    a block of rows times some panels; k in slices, the sums of a block carried from one to the next (tile.h).
//   a        is read in place where its units lie contiguous along k, and packed a block and slice at a time elsewhere.
//
// Included only by files that are compiled per instruction set; everything here is internal to the including file.
#pragma once

#include "kernels/cpu/pack.h"
#include "kernels/kernels.h"

namespace {

using finback::kernels::Context;
using finback::kernels::DType;

constexpr int64_t kSliceUnits = 256;
constexpr int64_t kMaxTaskPanels = 4096 / kPanel;          // bounds the carried sums of a task
constexpr int64_t kMinTaskPanels = 256 / kPanel;           // where there are enough: a block's rows are packed once a task
constexpr int64_t kTaskWork = int64_t{8} << 20;            // multiply-adds of units, some tens of microseconds
constexpr int64_t kPackedUnits = (int64_t{48} << 20) / 4;  // of the 64 MiB that kernels may take
constexpr int64_t kPackingRows = 8;                        // packing a panel costs about as much as so many rows of product

struct Group {
  int64_t m, k;
  const char *a, *b;
  char* c;
  const char* addend;  // or null
};

struct Product {
  DType dtype;  // of a and b: f32 or bf16
  bool a_k_contiguous, b_k_contiguous;
  int64_t a_stride, b_stride;  // elements
  int64_t n;
  DType c_dtype;  // f32 or bf16, and the addend's
  int64_t c_stride, addend_stride;
  Group* groups;
  int64_t group_count;
};

// Some panels of one group, packed or not.
struct Part {
  const Group* group;
  int64_t panel_begin, panel_end;
  uint32_t* packed;  // or null: packed where they are used
  int64_t blocks, panels_per_task;
  int64_t first_packing, first_task;
};

struct ThreadBuffers {
  uint32_t* a;   // [kBlockRows, kSliceUnits]
  uint32_t* b;   // [kSliceUnits, kPanel]
  float* carry;  // [kBlockRows, kMaxTaskPanels · kPanel]
};

struct Work {
  const Product* product;
  Part* parts;
  int64_t part_count;
  ThreadBuffers* threads;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T, bool kPairs>
void pack_b(const Product& p, const Group& g, int64_t panel, int64_t begin, int64_t end, uint32_t* to) {
  const int64_t column = panel * kPanel;
  pack<T, kPairs, kPanel>({g.b, p.b_stride, p.b_k_contiguous, p.n, g.k}, column, min(kPanel, p.n - column), begin, end, to);
}

template <class T, bool kPairs>
void packing_task(void* argument, int64_t task, int) {
  const Work& work = *static_cast<const Work*>(argument);
  const Part* part = work.parts;
  while (part + 1 < work.parts + work.part_count && part[1].first_packing <= task) ++part;
  const int64_t panel = task - part->first_packing, units = units_of(part->group->k, kPairs);
  pack_b<T, kPairs>(*work.product, *part->group, part->panel_begin + panel, 0, units, part->packed + panel * units * kPanel);
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

inline void fetch_output(const TileOutput& out, int64_t rows, int64_t bytes) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t at = 0; at < bytes; at += 64) {
      __builtin_prefetch(out.c + i * out.c_stride + at, 1);
      if (out.addend) __builtin_prefetch(out.addend + i * out.addend_stride + at);
    }
}

// A block of rows times some panels.
template <class T, bool kPairs, bool kPackedA>
void product_block(const Product& p, const Part& part, int64_t block, int64_t panel_begin, int64_t panel_end,
                   const ThreadBuffers& buffers) {
  const Group& g = *part.group;
  const int64_t units = units_of(g.k, kPairs), a_row = p.a_stride * static_cast<int64_t>(sizeof(T));
  const int64_t c_size = finback::core::size_of(p.c_dtype);
  // Rows are shared out evenly: 50 rows are nine tiles of 5 and 6, not eight of 6 and one of 2.
  const int64_t all_tiles = ceil_div(g.m, kTileRows);
  const int64_t tile_begin = all_tiles * block / part.blocks, tiles = all_tiles * (block + 1) / part.blocks - tile_begin;
  int64_t row[kBlockTiles + 1];
  for (int64_t t = 0; t <= tiles; ++t) row[t] = g.m * (tile_begin + t) / all_tiles;

  TileOutput out;
  out.c_stride = p.c_stride * c_size;
  out.addend_stride = p.addend_stride * c_size;
  out.bf16 = p.c_dtype == DType::bf16;
  for (int64_t begin = 0; begin == 0 || begin < units; begin += kSliceUnits) {
    const int64_t end = min(begin + kSliceUnits, units);
    out.first = begin == 0;
    out.last = end == units;
    if constexpr (kPackedA)
      pack<T, kPairs, kBlockRows>({g.a, p.a_stride, p.a_k_contiguous, g.m, g.k}, row[0], row[tiles] - row[0], begin, end, buffers.a);
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      const int64_t column = panel * kPanel;
      const uint32_t* b = buffers.b;
      if (part.packed) b = part.packed + ((panel - part.panel_begin) * units + begin) * kPanel;
      else pack_b<T, kPairs>(p, g, panel, begin, end, buffers.b);
      out.cols = static_cast<int>(min(kPanel, p.n - column));
      for (int64_t t = 0; t < tiles; ++t) {
        // A product of one slice carries nothing: its sums pass through the same few lines of the cache.
        out.carry = buffers.carry + (out.first && out.last ? 0 : ((panel - panel_begin) * kBlockRows + t * kTileRows) * kPanel);
        out.c = g.c + row[t] * out.c_stride + column * c_size;
        out.addend = g.addend ? g.addend + row[t] * out.addend_stride + column * c_size : nullptr;
        const char* a = kPackedA ? reinterpret_cast<const char*>(buffers.a + (row[t] - row[0])) : g.a + row[t] * a_row + begin * 4;
        Fetch fetch{a, 0, 0};
        if (panel == panel_begin) fetch_a<T, kPairs, kPackedA>(p, g, a, a_row, row[0], t, end, fetch);
        if (out.last) fetch_output(out, row[t + 1] - row[t], out.cols * c_size);
        tile_function<kPairs, kPackedA>(row[t + 1] - row[t], ceil_div(out.cols, kRegister))(a, a_row, b, end - begin, fetch, out);
      }
    }
  }
}

template <class T, bool kPairs>
void product_task(void* argument, int64_t task, int thread) {
  const Work& work = *static_cast<const Work*>(argument);
  const Product& p = *work.product;
  const Part* part = work.parts;
  while (part + 1 < work.parts + work.part_count && part[1].first_task <= task) ++part;
  const int64_t within = task - part->first_task, block = within % part->blocks;
  const int64_t panel_begin = part->panel_begin + within / part->blocks * part->panels_per_task;
  const int64_t panel_end = min(panel_begin + part->panels_per_task, part->panel_end);
  const bool in_place = p.a_k_contiguous && (sizeof(T) == 4 || (kPairs && part->group->k % 2 == 0));
  if (in_place) product_block<T, kPairs, false>(p, *part, block, panel_begin, panel_end, work.threads[thread]);
  else product_block<T, kPairs, true>(p, *part, block, panel_begin, panel_end, work.threads[thread]);
}

template <class T, bool kPairs>
void multiply_as(const Context& ctx, const Product& p) {
  const int64_t panels = ceil_div(p.n, kPanel), threads = ctx.team.threads();
  Work work{};
  work.product = &p;
  work.parts = static_cast<Part*>(ctx.scratch.take(p.group_count * static_cast<int64_t>(sizeof(Part))));
  work.threads = static_cast<ThreadBuffers*>(ctx.scratch.take(threads * static_cast<int64_t>(sizeof(ThreadBuffers))));
  for (int64_t t = 0; t < threads; ++t) {
    work.threads[t].a = static_cast<uint32_t*>(ctx.scratch.take(kBlockRows * kSliceUnits * 4));
    work.threads[t].b = static_cast<uint32_t*>(ctx.scratch.take(kSliceUnits * kPanel * 4));
    work.threads[t].carry = static_cast<float*>(ctx.scratch.take(kBlockRows * kMaxTaskPanels * kPanel * 4));
  }
  const int64_t mark = ctx.scratch.mark();
  int64_t next_group = 0, next_panel = 0;
  while (next_group < p.group_count) {
    // As many panels as fit at a time.
    work.part_count = 0;
    int64_t room = kPackedUnits, packings = 0, block_panels = 0;
    while (next_group < p.group_count) {
      const Group& g = p.groups[next_group];
      const int64_t panel_units = units_of(g.k, kPairs) * kPanel;
      Part part{};
      part.group = &g;
      part.blocks = ceil_div(g.m, kBlockRows);
      part.panel_begin = next_panel;
      part.panel_end = panels;
      part.first_packing = packings;
      if (part.blocks > 1 && panel_units <= kPackedUnits) {
        part.panel_end = min(panels, next_panel + room / max(1, panel_units));
        const int64_t count = part.panel_end - part.panel_begin;
        if (count == 0) break;
        part.packed = static_cast<uint32_t*>(ctx.scratch.take(count * panel_units * 4));
        room -= count * panel_units;
        packings += count;
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
      const int64_t wanted = max(kTaskWork / max(1, rows * units_of(part.group->k, kPairs) * kPanel), kMinTaskPanels);
      const int64_t most = max(1, min(min(wanted, block_panels / (16 * threads)), kMaxTaskPanels));
      const int64_t ranges = ceil_div(count, most);
      part.panels_per_task = ceil_div(count, ranges);
      part.first_task = tasks;
      tasks += part.blocks * ceil_div(count, part.panels_per_task);
    }
    ctx.team.run(packings, packing_task<T, kPairs>, &work);
    ctx.team.run(tasks, product_task<T, kPairs>, &work);
    ctx.scratch.release(mark);
  }
}

inline void multiply(const Context& ctx, const Product& p) {
  if (p.dtype == DType::f32) multiply_as<float, false>(ctx, p);
  else multiply_as<uint16_t, kMultipliesPairs>(ctx, p);
}

}  // namespace
