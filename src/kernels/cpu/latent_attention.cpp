// Causal attention over a paged latent cache, forward: the absorbed form of MLA. All heads of a token share its keys, so the lanes of a
// product are (token, head) pairs, heads fastest: a single token of a model with 16 heads fills a matrix register.
//
// Keys pass page by page by online softmax within a span of kSpan pages, and spans are joined in order. Both begin at absolute
// positions, so a lane's result depends on its own sequence alone, and spans of a long context may go to several threads: with few
// lanes a task is some lanes and one span (partial results wait in scratch memory), with many it takes all spans of its lanes. The same
// functions work and join in either case, with the same bits.
//
// Scores are S[key][lane], with keys read where they stand in the page if matrix registers or vectors take them whole. The output is
// O[lane][value], so that values only need to be paired, never transposed; the few weights are turned instead.
#include "kernels/cpu/attention_softmax.h"
#include "kernels/cpu/attention_squares.h"
#include "kernels/cpu/entries.h"

namespace finback::kernels::FB_ISA {
namespace {

constexpr int64_t kSpan = 8 * kKeys;                 // keys
constexpr int64_t kMostLanes = 256;                  // of a task
constexpr int64_t kPartialBytes = int64_t{4} << 20;  // of partial results at a time, for each thread

struct Latent {
  ConstMat q_latent, q, cache;
  std::span<const PagedSegment> segments;
  AttentionShape shape;
  Mat o;
  int64_t values() const { return cache.cols - shape.rope; }
};

// Some lanes of a segment and, of each, the output so far and what it is relative to.
struct Partial {
  float* top;  // [lanes]: the highest score, times scale · log2 e
  float* sum;  // [lanes]: of the weights
  float* out;  // [lanes][value lanes]
  void take(Carver& memory, int64_t lanes, int64_t width) {
    top = memory.take<float>(lanes);
    sum = memory.take<float>(lanes);
    out = memory.take<float>(lanes * width);
  }
};

struct Lanes {
  const PagedSegment& segment;
  int64_t begin, count;  // of rows · heads
  int64_t heads;
  int64_t position(int64_t lane) const { return segment.first_position + (begin + least(lane, count - 1)) / heads; }
  int64_t keys() const { return position(count - 1) + 1; }  // that the last one sees
  int64_t spans() const { return (keys() + kSpan - 1) / kSpan; }
};

// One thread's memory.
template <class T>
struct LatentBuffers {
  Element<T>* keys;  // [kKeys][key units], where they are not read in place
  Element<T>* rows;  // queries, or values, before they are packed
  Unit* queries;     // [groups][key units][kGroup]
  Unit* values;      // [kKeys / per unit][value lanes]
  Unit* weights;     // [kKeys / per unit][kGroup]
  Unit* turned;      // [kGroup][kKeys / per unit]
  float* scores;     // [kKeys][kGroup]
  float* seen;       // [kGroup]: keys of the page
  float* factor;     // [kGroup]
  Partial total, span;

  void take(Carver& memory, Extent<T> key, Extent<T> value) {
    const int64_t units = key.units() > value.units() ? key.units() : value.units();
    keys = memory.take<Element<T>>(kKeys * key.units() * kPerUnit<T>);
    rows = memory.take<Element<T>>(kKeys * units * kPerUnit<T>);
    queries = memory.take<Unit>(kMostLanes * key.units());
    values = memory.take<Unit>(kKeys / kPerUnit<T> * value.lanes());
    weights = memory.take<Unit>(kKeys * kGroup);
    turned = memory.take<Unit>(kKeys / kPerUnit<T> * kGroup);
    scores = memory.take<float>(kKeys * kGroup);
    seen = memory.take<float>(kGroup);
    factor = memory.take<float>(kGroup);
    total.take(memory, kMostLanes, value.lanes());
    span.take(memory, kMostLanes, value.lanes());
  }
};

template <class T>
void pack_queries(const Latent& a, const Lanes& lanes, Extent<T> key, const LatentBuffers<T>& b) {
  const int64_t row_size = key.units() * kPerUnit<T>, C = a.values(), head_size = a.shape.nope + a.shape.rope;
  for (int64_t g = 0; g < lanes.count; g += kGroup) {
    const int64_t there = least(kGroup, lanes.count - g), filled = round_up(there, kLanes);
    for (int64_t l = 0; l < there; ++l) {
      const int64_t row = lanes.segment.q_row + (lanes.begin + g + l) / lanes.heads, head = (lanes.begin + g + l) % lanes.heads;
      pack_row(a.q_latent.row<T>(row) + head * C, C, b.rows + l * row_size);
      pack_row(a.q.row<T>(row) + head * head_size + a.shape.nope, a.shape.rope, b.rows + l * row_size + C);
    }
    pad(b.rows, there, key.n, filled, row_size);
    transpose(filled, key.units(), reinterpret_cast<const Unit*>(b.rows), key.units(), b.queries + g * key.units(), kGroup);
  }
}

// out[lane] = [factor · out[lane] +] the weights of `seen` keys times their values.
template <class T>
void add_values(const LatentBuffers<T>& b, int64_t seen, int64_t lanes, Extent<T> value, bool first, float* out) {
  const Start start = first ? Start::zero : Start::add;
  for (int64_t l = 0; l < lanes && !first; ++l) {
    const float factor = b.factor[l];
    if (factor == 1) continue;
    for (int64_t d = 0; d < value.lanes(); d += kRegister)
      store_r(out + l * value.lanes() + d, load_r(out + l * value.lanes() + d) * factor);
  }
  if constexpr (kSquares<T>) {
    const int64_t units = seen / 2, whole = round_up(units, kSquare);
    memset(b.weights + units * kGroup, 0, static_cast<size_t>((whole - units) * kGroup) * sizeof(Unit));
    transpose(whole, lanes, b.weights, kGroup, b.turned, kKeys / 2);
    square_product(lanes, value.lanes(), whole, b.turned, kKeys / 2, b.values, value.lanes(), out, value.lanes(), start);
  } else {
    product<kPairs<T>>(lanes, value.lanes(), seen / kPerUnit<T>, b.weights, 1, kGroup, b.values, value.lanes(), out, value.lanes(), start);
  }
}

// The lanes over the keys from `key0` to the end of its span. Nothing is said of lanes that see none of them.
template <class T>
void attend(const Latent& a, const Lanes& lanes, int64_t key0, const LatentBuffers<T>& b, const Partial& to) {
  const Extent<T> key{a.cache.cols}, value{a.values()};
  const int64_t row_size = key.units() * kPerUnit<T>, end = least(key0 + kSpan, lanes.keys());
  const bool in_place = sizeof(T) == sizeof(Element<T>) && key.n == row_size;
  const float scale = static_cast<float>(a.shape.scale * kLog2E);
  for (int64_t l = 0; l < round_up(lanes.count, kLanes); ++l) to.top[l] = -kInfinity, to.sum[l] = 0;

  for (int64_t page0 = key0; page0 < end; page0 += kKeys) {
    const int64_t there = least(kKeys, end - page0), padded = round_up(there, kSquares<T> ? 2 * kSquare : 8);
    const int64_t first_row = int64_t{lanes.segment.pages[page0 / kKeys]} * kKeys;
    const Unit* keys = reinterpret_cast<const Unit*>(a.cache.row<T>(first_row));
    int64_t key_units = a.cache.stride / kPerUnit<T>;
    if (!in_place) {
      pack_rows<T>(a.cache, first_row, there, 0, key.n, b.keys, row_size);
      pad(b.keys, there, key.n, padded, row_size);
      keys = reinterpret_cast<const Unit*>(b.keys);
      key_units = key.units();
    }
    // What lies beyond the last key may be anything; its weight is zero, and its value must be too.
    Element<T>* value_rows = kPairs<T> ? b.rows : reinterpret_cast<Element<T>*>(b.values);
    pack_rows<T>(a.cache, first_row, there, 0, value.n, value_rows, value.lanes());
    pad(value_rows, there, value.n, padded, value.lanes());
    if constexpr (kPairs<T>) pair_rows(padded, value.lanes(), value_rows, value.lanes(), b.values, value.lanes());

    for (int64_t g = 0; g < lanes.count; g += kGroup) {
      const int64_t in_group = least(kGroup, lanes.count - g), filled = round_up(in_group, kLanes);
      for (int64_t l = 0; l < filled; ++l) b.seen[l] = static_cast<float>(lanes.position(g + l) + 1 - page0);
      const int64_t seen = least(padded, round_up(lanes.position(g + in_group - 1) + 1 - page0, 8));
      if (seen <= 0) continue;
      const Unit* queries = b.queries + g * key.units();
      if constexpr (kSquares<T>)
        square_product(round_up(seen, kSquare), filled, key.units(), keys, key_units, queries, kGroup, b.scores, kGroup, Start::zero);
      else product<kPairs<T>>(seen, filled, key.depth(), keys, key_units, 1, queries, kGroup, b.scores, kGroup, Start::zero);
      const int64_t all_see = lanes.position(g) + 1 - page0;
      const auto sees = [&](int64_t j, int64_t l) { return load_r(b.seen + l) > splat_r(static_cast<float>(j)); };
      weigh<T>(b.scores, seen, filled, least(all_see < 0 ? 0 : all_see, seen), sees, scale, to.top + g, to.sum + g, b.factor, b.weights);
      add_values(b, seen, filled, value, page0 == key0, to.out + g * value.lanes());
    }
  }
}

// total and part as one; keys of part begin at key0. One body for all callers: the same roundings.
[[gnu::noinline]] void join(const Lanes& lanes, int64_t key0, int64_t width, const Partial& part, const Partial& total) {
  for (int64_t l = 0; l < lanes.count; ++l) {
    if (lanes.position(l) < key0) continue;
    float *out = total.out + l * width, *more = part.out + l * width;
    if (key0 == 0) {
      total.top[l] = part.top[l];
      total.sum[l] = part.sum[l];
      memcpy(out, more, static_cast<size_t>(width) * sizeof(float));
      continue;
    }
    const float top = total.top[l] > part.top[l] ? total.top[l] : part.top[l];
    const vr old = vexp2(splat_r(total.top[l] - top)), young = vexp2(splat_r(part.top[l] - top));
    total.top[l] = top;
    total.sum[l] = total.sum[l] * old[0] + part.sum[l] * young[0];
    for (int64_t d = 0; d < width; d += kRegister) store_r(out + d, madd(load_r(out + d), old, load_r(more + d) * young));
  }
}

template <class T>
void finish(const Latent& a, const Lanes& lanes, const Partial& total) {
  const Extent<T> value{a.values()};
  for (int64_t l = 0; l < lanes.count; ++l) {
    float* out = total.out + l * value.lanes();
    for (int64_t d = 0; d < value.lanes(); d += kRegister) store_r(out + d, load_r(out + d) / total.sum[l] + 0.0f);  // one sign of zero
    store_row(a.o.row<T>(lanes.segment.q_row + (lanes.begin + l) / lanes.heads) + (lanes.begin + l) % lanes.heads * value.n, out, value.n);
  }
}

// ---- tasks

struct Tasks {
  Latent attention;
  int64_t block;         // lanes of a task, a multiple of kGroup
  int64_t blocks;        // of all segments
  int64_t* first_block;  // of each segment, and their number at the end
  char* scratch;
  int64_t thread_bytes;
  // Where spans go to several threads: the ones at hand, and [blocks] totals and [blocks][wave] parts.
  int64_t first_span, wave;
  Partial *totals, *parts;

  Lanes lanes(int64_t number) const {
    const int64_t index = segment_of(first_block, static_cast<int64_t>(attention.segments.size()), number);
    const PagedSegment& s = attention.segments[static_cast<size_t>(index)];
    const int64_t begin = (number - first_block[index]) * block, heads = attention.shape.heads;
    return {s, begin, least(block, s.rows * heads - begin), heads};
  }
};

template <class T>
LatentBuffers<T> buffers_of(const Tasks& t, int thread) {
  Carver memory{t.scratch + thread * t.thread_bytes};
  LatentBuffers<T> b;
  b.take(memory, {t.attention.cache.cols}, {t.attention.values()});
  return b;
}

template <class T>
void whole_task(void* argument, int64_t task, int thread) {
  const Tasks& t = *static_cast<const Tasks*>(argument);
  const Lanes lanes = t.lanes(t.blocks - 1 - task);  // a segment's last rows take longest
  [[maybe_unused]] const SquareRegisters<kSquares<T>> registers;
  const LatentBuffers<T> b = buffers_of<T>(t, thread);
  pack_queries<T>(t.attention, lanes, {t.attention.cache.cols}, b);
  attend<T>(t.attention, lanes, 0, b, b.total);
  for (int64_t key0 = kSpan; key0 < lanes.keys(); key0 += kSpan) {
    attend<T>(t.attention, lanes, key0, b, b.span);
    join(lanes, key0, Extent<T>{t.attention.values()}.lanes(), b.span, b.total);
  }
  finish<T>(t.attention, lanes, b.total);
}

template <class T>
void span_task(void* argument, int64_t task, int thread) {
  const Tasks& t = *static_cast<const Tasks*>(argument);
  const Lanes lanes = t.lanes(task / t.wave);
  const int64_t span = t.first_span + task % t.wave;
  if (span >= lanes.spans()) return;
  [[maybe_unused]] const SquareRegisters<kSquares<T>> registers;
  const LatentBuffers<T> b = buffers_of<T>(t, thread);
  pack_queries<T>(t.attention, lanes, {t.attention.cache.cols}, b);
  attend<T>(t.attention, lanes, span * kSpan, b, t.parts[task]);
}

template <class T>
void join_task(void* argument, int64_t number, int) {
  const Tasks& t = *static_cast<const Tasks*>(argument);
  const Lanes lanes = t.lanes(number);
  const int64_t last = least(t.first_span + t.wave, lanes.spans());
  for (int64_t span = t.first_span; span < last; ++span)
    join(lanes, span * kSpan, Extent<T>{t.attention.values()}.lanes(), t.parts[number * t.wave + span - t.first_span], t.totals[number]);
  if (t.first_span < last && last == lanes.spans()) finish<T>(t.attention, lanes, t.totals[number]);
}

// Large blocks pair a page's values less often; smaller ones leave some tasks for every thread, spans counted. Changes no bit.
int64_t cut_blocks(Tasks& t, int threads) {
  const auto segments = static_cast<int64_t>(t.attention.segments.size());
  t.first_block[0] = 0;
  for (t.block = kMostLanes;; t.block /= 2) {
    int64_t most_spans = 0, tasks = 0;
    for (int64_t i = 0; i < segments; ++i) {
      const PagedSegment& s = t.attention.segments[static_cast<size_t>(i)];
      const int64_t blocks = (s.rows * t.attention.shape.heads + t.block - 1) / t.block;
      const int64_t spans = (s.first_position + s.rows + kSpan - 1) / kSpan;
      t.first_block[i + 1] = t.first_block[i] + blocks;
      tasks += blocks * spans;
      if (spans > most_spans) most_spans = spans;
    }
    t.blocks = t.first_block[segments];
    if (t.block == kGroup || tasks >= 4 * threads) return most_spans;
  }
}

template <class T>
void run_spans(const Context& ctx, Tasks& t, int64_t spans) {
  const int64_t width = Extent<T>{t.attention.values()}.lanes(), budget = kPartialBytes * ctx.team.threads();
  Carver counting;
  Partial().take(counting, t.block, width);
  t.wave = least(spans, budget / (counting.bytes * t.blocks));
  if (t.wave < 1) t.wave = 1;
  const auto take = [&](int64_t n) {
    auto* all = static_cast<Partial*>(ctx.scratch.take(n * int64_t{sizeof(Partial)}));
    Carver memory{static_cast<char*>(ctx.scratch.take(n * counting.bytes))};
    for (int64_t i = 0; i < n; ++i) all[i].take(memory, t.block, width);
    return all;
  };
  t.totals = take(t.blocks);
  t.parts = take(t.blocks * t.wave);
  for (t.first_span = 0; t.first_span < spans; t.first_span += t.wave) {
    ctx.team.run(t.blocks * t.wave, span_task<T>, &t);
    ctx.team.run(t.blocks, join_task<T>, &t);
  }
}

template <class T>
void run(const Context& ctx, const Latent& attention) {
  const int64_t mark = ctx.scratch.mark();
  Tasks t{};
  t.attention = attention;
  t.first_block = static_cast<int64_t*>(ctx.scratch.take((static_cast<int64_t>(attention.segments.size()) + 1) * int64_t{sizeof(int64_t)}));
  const int64_t spans = cut_blocks(t, ctx.team.threads());
  Carver counting;
  LatentBuffers<T>().take(counting, {attention.cache.cols}, {attention.values()});
  t.thread_bytes = counting.bytes;
  t.scratch = static_cast<char*>(ctx.scratch.take(t.thread_bytes * ctx.team.threads()));
  if (spans > 1 && t.blocks < 2 * ctx.team.threads()) run_spans<T>(ctx, t, spans);
  else ctx.team.run(t.blocks, whole_task<T>, &t);
  ctx.scratch.release(mark);
}

void latent_attention(const Context& ctx, ConstMat q_latent, ConstMat q, ConstMat cache, std::span<const PagedSegment> segments,
                      const AttentionShape& shape, Mat o) {
  const Latent attention{q_latent, q, cache, segments, shape, o};
  if (q.dtype == DType::bf16) run<uint16_t>(ctx, attention);
  else run<float>(ctx, attention);
}

}  // namespace

void add_latent_attention(Table& table) { table.latent_attention = latent_attention; }

}  // namespace finback::kernels::FB_ISA
