// Causal attention over a paged latent cache, forward: the absorbed form of MLA. All heads of a token share its keys, so the lanes of a
// product are (token, head) pairs, heads fastest: a single token of a model with 16 heads fills a matrix register.
//
// Keys come in spans that begin at multiples of kSpan positions: a softmax over a span, and spans joined in order by online softmax.
// Output sums are many (a lane has as many as a latent has numbers), so they are not touched page by page but formed over a whole span at
// once. A lane's result depends on its own sequence alone, and spans of a long context may go to several threads: with few lanes a task
// is some lanes and one span (partial results wait in scratch memory), with many it takes all spans of its lanes. The same functions work
// and join in either case, with the same bits.
//
// Scores are S[key][lane], with keys read where they stand in the page if matrix registers or vectors take them whole. The output is
// O[lane][value], so that values only need to be paired, never transposed; the weights, which are few, are turned instead.
#include "kernels/cpu/attention_softmax.h"
#include "kernels/cpu/attention_squares.h"
#include "kernels/cpu/entries.h"

namespace finback::kernels::FB_ISA {
namespace {

constexpr int64_t kSpan = 8 * kKeys;
constexpr int64_t kColumns = 128;                    // of values at a time: a span of them in the second cache
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
  Element<T>* keys;  // [kSpan][key units], where they are not read in place
  Element<T>* rows;  // queries, or some columns of a span's values, before they are packed
  Unit* queries;     // [groups][key units][kGroup]
  Unit* values;      // [kSpan / per unit][kColumns]
  Unit* weights;     // [groups][kSpan / per unit][kGroup], or of one group where they are turned
  Unit* turned;      // [groups · kGroup][kSpan / per unit]
  float* scores;     // [kSpan][kGroup]
  float* seen;       // [kGroup]: keys of the span
  float* rise;       // [kGroup]: weigh()'s factor, which a softmax in one piece has no use for
  Partial total, span;

  void take(Carver& memory, Extent<T> key, Extent<T> value) {
    const int64_t span_units = kSpan / kPerUnit<T>, row = key.units() * kPerUnit<T>;
    keys = memory.take<Element<T>>(reads_in_place(key) ? 0 : kSpan * row);
    rows = memory.take<Element<T>>(kGroup * row > kSpan * kColumns ? kGroup * row : kSpan * kColumns);
    queries = memory.take<Unit>(kMostLanes * key.units());
    values = memory.take<Unit>(span_units * kColumns);
    weights = memory.take<Unit>(span_units * (kSquares<T> ? kGroup : kMostLanes));
    turned = memory.take<Unit>(kSquares<T> ? span_units * kMostLanes : 0);
    scores = memory.take<float>(kSpan * kGroup);
    seen = memory.take<float>(kGroup);
    rise = memory.take<float>(kGroup);
    total.take(memory, kMostLanes, value.lanes());
    span.take(memory, kMostLanes, value.lanes());
  }
  static bool reads_in_place(Extent<T> key) { return sizeof(T) == sizeof(Element<T>) && key.n == key.units() * kPerUnit<T>; }
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

// Some lanes over a span: the keys of its pages that any of them sees.
template <class T>
struct Span {
  const Latent& attention;
  const Lanes& lanes;
  const LatentBuffers<T>& b;
  int64_t key0, keys;  // the first, and how many
  Extent<T> key{attention.cache.cols}, value{attention.values()};

  int64_t row(int64_t page) const { return int64_t{lanes.segment.pages[(key0 + page) / kKeys]} * kKeys; }
  // Keys up to the last that lanes before `lane` see, in whole vectors of weights.
  int64_t seen(int64_t lane) const {
    const int64_t last = lanes.position(lane - 1) + 1 - key0;
    return last <= 0 ? 0 : least(round_up(last, 8), round_up(keys, 8));
  }
};

// Where the keys of a page stand in a row-major matrix, and its rows' length in units.
template <class T>
const Unit* keys_of_page(const Span<T>& s, int64_t page, int64_t& row_units) {
  const LatentBuffers<T>& b = s.b;
  if (b.reads_in_place(s.key)) {
    row_units = s.attention.cache.stride / kPerUnit<T>;
    return reinterpret_cast<const Unit*>(s.attention.cache.template row<T>(s.row(page)));
  }
  row_units = s.key.units();
  return reinterpret_cast<const Unit*>(b.keys) + page * row_units;
}

// Packs the keys, where they cannot be read as they stand.
template <class T>
void pack_keys(const Span<T>& s) {
  const int64_t row_size = s.key.units() * kPerUnit<T>;
  if (s.b.reads_in_place(s.key)) return;
  for (int64_t page = 0; page < s.keys; page += kKeys) {
    const int64_t there = least(kKeys, s.keys - page);
    pack_rows<T>(s.attention.cache, s.row(page), there, 0, s.key.n, s.b.keys + page * row_size, row_size);
    pad(s.b.keys + page * row_size, there, s.key.n, round_up(there, 16), row_size);
  }
}

// The weights of a group of lanes, and what they are relative to.
template <class T>
void weigh_group(const Span<T>& s, int64_t g, const Partial& to) {
  const LatentBuffers<T>& b = s.b;
  const int64_t in_group = least(kGroup, s.lanes.count - g), filled = round_up(in_group, kLanes), seen = s.seen(g + in_group);
  const Unit* queries = b.queries + g * s.key.units();
  for (int64_t page = 0; page < seen; page += kKeys) {
    int64_t row_units = 0;
    const Unit* keys = keys_of_page(s, page, row_units);
    float* scores = b.scores + page * kGroup;
    const int64_t n = least(kKeys, seen - page);
    if constexpr (kSquares<T>)
      square_product(round_up(n, kSquare), filled, s.key.units(), keys, row_units, queries, kGroup, scores, kGroup, Start::zero);
    else product<kPairs<T>>(n, filled, s.key.depth(), keys, row_units, 1, queries, kGroup, scores, kGroup, Start::zero);
  }
  for (int64_t l = 0; l < filled; ++l) {
    b.seen[l] = static_cast<float>(s.lanes.position(g + l) + 1 - s.key0);
    to.top[g + l] = -kInfinity;
    to.sum[g + l] = 0;
  }
  const float scale = static_cast<float>(s.attention.shape.scale * kLog2E);
  const int64_t all_see = s.lanes.position(g) + 1 - s.key0;
  const auto sees = [&](int64_t j, int64_t l) { return load_r(b.seen + l) > splat_r(static_cast<float>(j)); };
  Unit* weights = kSquares<T> ? b.weights : b.weights + g * (kSpan / kPerUnit<T>);
  weigh<T>(b.scores, seen, filled, least(all_see < 0 ? 0 : all_see, seen), sees, scale, to.top + g, to.sum + g, b.rise, weights);
  if constexpr (kSquares<T>) {
    const int64_t units = seen / 2, all = round_up(round_up(s.keys, 8) / 2, kSquare);
    memset(weights + units * kGroup, 0, static_cast<size_t>((all - units) * kGroup) * sizeof(Unit));
    transpose(all, filled, weights, kGroup, b.turned + g * (kSpan / 2), kSpan / 2);
  }
}

// out[lane] = the sum of the weights of all keys times their values, some columns of them.
template <class T>
void add_values(const Span<T>& s, int64_t column, float* out) {
  const LatentBuffers<T>& b = s.b;
  const int64_t n = least(kColumns, s.value.n - column), width = round_up(n, kLanes), row = s.value.lanes();
  const int64_t padded = round_up(s.keys, kSquares<T> ? 2 * kSquare : 8);
  Element<T>* rows = kPairs<T> ? b.rows : reinterpret_cast<Element<T>*>(b.values);
  for (int64_t page = 0; page < s.keys; page += kKeys)
    pack_rows<T>(s.attention.cache, s.row(page), least(kKeys, s.keys - page), column, n, rows + page * width, width);
  // What lies beyond the last key in its page may be anything; its weight is zero, and its value must be too.
  pad(rows, s.keys, n, padded, width);
  if constexpr (kPairs<T>) pair_rows(padded, width, rows, width, b.values, width);
  if constexpr (kSquares<T>) {
    square_product(round_up(s.lanes.count, kLanes), width, padded / 2, b.turned, kSpan / 2, b.values, width, out + column, row,
                   Start::zero);
    return;
  }
  for (int64_t g = 0; g < s.lanes.count; g += kGroup) {
    const int64_t in_group = least(kGroup, s.lanes.count - g);
    product<kPairs<T>>(round_up(in_group, kLanes), width, s.seen(g + in_group) / kPerUnit<T>, b.weights + g * (kSpan / kPerUnit<T>), 1,
                       kGroup, b.values, width, out + g * row + column, row, Start::zero);
  }
}

// The lanes over the keys from `key0` to the end of its span. Nothing is said of lanes that see none of them.
template <class T>
void attend(const Latent& a, const Lanes& lanes, int64_t key0, const LatentBuffers<T>& b, const Partial& to) {
  const Span<T> s{a, lanes, b, key0, least(kSpan, lanes.keys() - key0)};
  pack_keys(s);
  for (int64_t g = 0; g < lanes.count; g += kGroup) weigh_group(s, g, to);
  for (int64_t column = 0; column < s.value.n; column += kColumns) add_values(s, column, to.out);
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
