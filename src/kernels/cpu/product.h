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

constexpr int64_t kBlockRows = 4 * kTileRows;
constexpr int64_t kSliceUnits = 256;
constexpr int64_t kMaxTaskPanels = 4096 / kPanel;          // bounds the carried sums of a task
constexpr int64_t kTaskWork = int64_t{4} << 20;            // multiply-adds of units, some tens of microseconds
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

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T, bool kPairs>
void pack_b(const Product& p, const Group& g, int64_t panel, int64_t begin, int64_t end, uint32_t* to) {
  const int64_t column = panel * kPanel;
  pack<T, kPairs, kPanel>({g.b, p.b_stride, p.b_k_contiguous}, column, min(kPanel, p.n - column), g.k, begin, end, to);
}

template <class T, bool kPairs>
void packing_task(void* argument, int64_t task, int) {
  const Work& work = *static_cast<const Work*>(argument);
  const Part* part = work.parts;
  while (part + 1 < work.parts + work.part_count && part[1].first_packing <= task) ++part;
  const int64_t panel = task - part->first_packing, units = units_of(part->group->k, kPairs);
  pack_b<T, kPairs>(*work.product, *part->group, part->panel_begin + panel, 0, units, part->packed + panel * units * kPanel);
}

// A block of rows times some panels.
template <class T, bool kPairs, bool kPackedA>
void product_block(const Product& p, const Part& part, int64_t block, int64_t panel_begin, int64_t panel_end,
                   const ThreadBuffers& buffers) {
  const Group& g = *part.group;
  const int64_t units = units_of(g.k, kPairs);
  // Rows are shared out evenly: a hundred rows are tiles of 12 and 13, not seven of 14 and one of 2.
  const int64_t tiles = ceil_div(g.m, kTileRows);
  const int64_t tile_begin = tiles * block / part.blocks, tile_end = tiles * (block + 1) / part.blocks;
  const int64_t c_size = finback::core::size_of(p.c_dtype);
  for (int64_t begin = 0; begin == 0 || begin < units; begin += kSliceUnits) {
    const int64_t end = min(begin + kSliceUnits, units);
    if constexpr (kPackedA)
      for (int64_t t = tile_begin; t < tile_end; ++t) {
        const int64_t row = g.m * t / tiles, rows = g.m * (t + 1) / tiles - row;
        pack<T, kPairs, kTileRows>({g.a, p.a_stride, p.a_k_contiguous}, row, rows, g.k, begin, end,
                                   buffers.a + (t - tile_begin) * kTileRows * kSliceUnits);
      }
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      const uint32_t* b = buffers.b;
      if (part.packed) b = part.packed + ((panel - part.panel_begin) * units + begin) * kPanel;
      else pack_b<T, kPairs>(p, g, panel, begin, end, buffers.b);
      for (int64_t t = tile_begin; t < tile_end; ++t) {
        const int64_t row = g.m * t / tiles, rows = g.m * (t + 1) / tiles - row, column = panel * kPanel;
        TileOutput out;
        out.carry = buffers.carry + ((panel - panel_begin) * kBlockRows + (t - tile_begin) * kTileRows) * kPanel;
        out.first = begin == 0;
        out.last = end == units;
        out.c_stride = p.c_stride * c_size;
        out.addend_stride = p.addend_stride * c_size;
        out.c = g.c + row * out.c_stride + column * c_size;
        out.addend = g.addend ? g.addend + row * out.addend_stride + column * c_size : nullptr;
        out.bf16 = p.c_dtype == DType::bf16;
        out.cols = static_cast<int>(min(kPanel, p.n - column));
        const int64_t a_row = p.a_stride * static_cast<int64_t>(sizeof(T));
        const char* a = kPackedA ? reinterpret_cast<const char*>(buffers.a + (t - tile_begin) * kTileRows * kSliceUnits)
                                 : g.a + row * a_row + begin * 4;
        tile_function<kPairs, kPackedA>(rows)(a, a_row, b, end - begin, out);
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
      const int64_t wanted = kTaskWork / max(1, rows * units_of(part.group->k, kPairs) * kPanel);
      part.panels_per_task = max(1, min(min(wanted, block_panels / (8 * threads)), kMaxTaskPanels));
      part.first_task = tasks;
      tasks += part.blocks * ceil_div(part.panel_end - part.panel_begin, part.panels_per_task);
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
