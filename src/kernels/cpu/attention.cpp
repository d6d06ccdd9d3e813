// Causal attention, forward, by online softmax over blocks of keys (Milakov and Gimelshein, arXiv 1805.02867; Dao,
// FlashAttention-2, arXiv 2307.08691). A task is one head and one block of queries.
//
// Queries lie along the lanes: scores are S[key][query], so that maxima, sums and masks need no exchange between lanes, keys
// are read as they stand, and a query never meets another. Blocks of keys begin at multiples of kKeys positions. A masked key
// has the weight zero, which adds nothing to the sums; so a query's result does not depend on who shares its block. Few queries
// would leave most lanes idle: attention_few.h has the same sums with keys along the lanes. Matrix registers take scores and
// values in squares (attention_squares.h), a single query's too.
#include "kernels/cpu/attention.h"

#include "kernels/cpu/attention_few.h"
#include "kernels/cpu/attention_squares.h"
#include "kernels/cpu/entries.h"

namespace finback::kernels::FB_ISA {
namespace {

constexpr int64_t kGroups = 16, kQueries = kGroup * kGroups;  // of a task, at most

// One thread's memory.
template <class T>
struct Buffers {
  Element<T>* rows;        // queries or values as they stand, before they are packed
  Element<T>* keys;        // [kKeys][key units]
  Unit* values;            // [kKeys / per unit][value lanes]
  Unit* value_columns;     // [value lanes][kKeys / per unit], where there are matrix registers
  Unit* queries[kGroups];  // [key units][kGroup]
  float* out[kGroups];     // [value lanes][kGroup], not yet divided by the sum
  float* scores;           // [kKeys][kGroup]
  Unit* weights;           // [kKeys / per unit][kGroup]
  float* out_rows;         // [kGroup][value lanes]
  float* top;              // [kQueries]: the highest score so far, times scale · log2 e
  float* sum;              // [kQueries]: of the weights so far, relative to top
  float* factor;           // [kGroup]: what the last block's rise of top does to older weights

  void take(Carver& memory, Extent<T> key, Extent<T> value) {
    rows = memory.take<Element<T>>(kKeys * kPerUnit<T> * (key.units() > value.units() ? key.units() : value.units()));
    keys = memory.take<Element<T>>(kKeys * kPerUnit<T> * key.units());
    values = memory.take<Unit>(kKeys / kPerUnit<T> * value.lanes());
    value_columns = kSquares<T> ? memory.take<Unit>(kKeys / kPerUnit<T> * value.lanes()) : nullptr;
    for (Unit*& q : queries) q = memory.take<Unit>(key.units() * kGroup);
    for (float*& o : out) o = memory.take<float>(value.lanes() * kGroup);
    scores = memory.take<float>(kKeys * kGroup);
    weights = kPairs<T> ? memory.take<Unit>(kKeys / 2 * kGroup) : reinterpret_cast<Unit*>(scores);
    out_rows = memory.take<float>(kGroup * value.lanes());
    top = memory.take<float>(kQueries);
    sum = memory.take<float>(kQueries);
    factor = memory.take<float>(kGroup);
  }
};

// Scores of a group of queries and `seen` keys.
template <class T>
void score(const Buffers<T>& b, int64_t g, int64_t seen, int64_t lanes, Extent<T> key) {
  const Unit* keys = reinterpret_cast<const Unit*>(b.keys);
  if constexpr (kSquares<T>)
    square_product(round_up(seen, kSquare), lanes, key.units(), keys, key.units(), b.queries[g], kGroup, b.scores, kGroup, Start::zero);
  else product<kPairs<T>>(seen, lanes, key.depth(), keys, key.units(), 1, b.queries[g], kGroup, b.scores, kGroup, Start::zero);
}

// out = [factor · out +] the values of `seen` keys times their weights.
template <class T>
void add_values(const Buffers<T>& b, int64_t g, int64_t seen, int64_t lanes, Extent<T> value, bool first) {
  if constexpr (kSquares<T>) {
    const int64_t units = seen / 2, whole = round_up(units, kSquare);
    memset(b.weights + units * kGroup, 0, static_cast<size_t>((whole - units) * kGroup) * sizeof(Unit));
    for (int64_t d = 0; d < value.lanes() && !first; ++d)
      for (int64_t l = 0; l < lanes; l += kRegister)
        store_r(b.out[g] + d * kGroup + l, load_r(b.out[g] + d * kGroup + l) * load_r(b.factor + l));
    square_product(value.lanes(), lanes, whole, b.value_columns, kKeys / 2, b.weights, kGroup, b.out[g], kGroup,
                   first ? Start::zero : Start::add);
  } else {
    product<kPairs<T>>(value.lanes(), lanes, seen / kPerUnit<T>, b.values, 1, value.lanes(), b.weights, kGroup, b.out[g], kGroup,
                       first ? Start::zero : Start::scaled, b.factor);
  }
}

template <class T>
void forward_task(void* argument, int64_t task, int thread) {
  const Forward& f = *static_cast<const Forward*>(argument);
  const int64_t index = segment_of(f.first_task, static_cast<int64_t>(f.segments.size()), task);
  const Segment& s = f.segments[static_cast<size_t>(index)];
  if (!kSquares<T> && s.rows <= kFew) return forward_few<T>(f, s, task - f.first_task[index], f.scratch + thread * f.thread_bytes);
  const int64_t blocks = (s.rows + f.block - 1) / f.block, number = task - f.first_task[index];
  const int64_t head = number / blocks, begin = (blocks - 1 - number % blocks) * f.block;  // the longest first

  const Extent<T> key{f.shape.nope + f.shape.rope}, value{f.shape.value};
  const int64_t key_row = key.units() * kPerUnit<T>;
  const int64_t kv_column = head * (f.shape.nope + f.shape.value);
  Carver memory{f.scratch + thread * f.thread_bytes};
  [[maybe_unused]] const SquareRegisters<kSquares<T>> registers;
  Buffers<T> b;
  b.take(memory, key, value);

  const int64_t first = s.q_row + begin, rows = least(f.block, s.rows - begin), position = s.first_position + begin;
  const int64_t groups = (rows + kGroup - 1) / kGroup;
  const auto group_rows = [&](int64_t g) { return least(kGroup, rows - g * kGroup); };
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t lanes = round_up(group_rows(g), kLanes);
    pack_rows<T>(f.q, first + g * kGroup, group_rows(g), head * key.n, key.n, b.rows, key_row);
    pad(b.rows, group_rows(g), key.n, lanes, key_row);
    transpose(lanes, key.units(), reinterpret_cast<const Unit*>(b.rows), key.units(), b.queries[g], kGroup);
  }
  for (int64_t i = 0; i < groups * kGroup; ++i) b.top[i] = -kInfinity, b.sum[i] = 0;

  const float scale = static_cast<float>(f.shape.scale * kLog2E);
  for (int64_t key0 = 0; key0 < position + rows; key0 += kKeys) {
    const int64_t keys = least(kKeys, position + rows - key0), padded = round_up(keys, kSquares<T> ? 2 * kSquare : 8);
    pack_rows<T>(f.kv, s.kv_row + key0, keys, kv_column, f.shape.nope, b.keys, key_row);
    pack_rows<T>(f.k_pe, s.kv_row + key0, keys, 0, f.shape.rope, b.keys + f.shape.nope, key_row);
    pad(b.keys, keys, key.n, padded, key_row);
    Element<T>* value_rows = kPairs<T> ? b.rows : reinterpret_cast<Element<T>*>(b.values);
    pack_rows<T>(f.kv, s.kv_row + key0, keys, kv_column + f.shape.nope, value.n, value_rows, value.lanes());
    pad(value_rows, keys, value.n, padded, value.lanes());
    if constexpr (kPairs<T>) pair_rows(padded, value.lanes(), value_rows, value.lanes(), b.values, value.lanes());
    if constexpr (kSquares<T>) transpose(padded / 2, value.lanes(), b.values, value.lanes(), b.value_columns, kKeys / 2);

    for (int64_t g = 0; g < groups; ++g) {
      const int64_t group_position = position + g * kGroup, lanes = round_up(group_rows(g), kLanes);
      const int64_t seen = least(padded, round_up(group_position + group_rows(g) - key0, 8));
      if (seen <= 0) continue;
      score(b, g, seen, lanes, key);
      const int64_t diagonal = key0 - group_position;  // lane l sees key j when l >= j + diagonal
      const auto sees = [&](int64_t j, int64_t l) { return lane_numbers() + static_cast<float>(l) >= static_cast<float>(j + diagonal); };
      weigh<T>(b.scores, seen, lanes, least(diagonal > 0 ? 0 : 1 - diagonal, seen), sees, scale, b.top + g * kGroup, b.sum + g * kGroup,
               b.factor, b.weights);
      add_values(b, g, seen, lanes, value, key0 == 0);
    }
  }

  for (int64_t g = 0; g < groups; ++g) {
    const int64_t lanes = round_up(group_rows(g), kLanes);
    transpose(value.lanes(), lanes, reinterpret_cast<const Unit*>(b.out[g]), kGroup, reinterpret_cast<Unit*>(b.out_rows), value.lanes());
    for (int64_t i = 0; i < group_rows(g); ++i) {
      const int64_t row = first + g * kGroup + i;
      const float sum = b.sum[g * kGroup + i];
      float* out = b.out_rows + i * value.lanes();
      for (int64_t d = 0; d < value.lanes(); d += kRegister) store_r(out + d, load_r(out + d) / sum + 0.0f);  // + 0: one sign of zero
      store_row(f.o.row<T>(row) + head * value.n, out, value.n);
      f.lse.row<float>(row)[head] = b.top[g * kGroup + i] * kLn2 + __builtin_logf(sum);
    }
  }
}

// Large blocks pack the keys less often; smaller ones, down to one group, leave some tasks for every thread. Changes no bit.
void make_tasks(Forward& f, int threads) {
  const int64_t segments = static_cast<int64_t>(f.segments.size());
  f.first_task[0] = 0;
  for (f.block = kQueries;; f.block /= 2) {
    for (int64_t i = 0; i < segments; ++i)
      f.first_task[i + 1] = f.first_task[i] + f.shape.heads * ((f.segments[static_cast<size_t>(i)].rows + f.block - 1) / f.block);
    if (f.block == kGroup || f.first_task[segments] >= 4 * threads) return;
  }
}

template <class T>
void forward(const Context& ctx, Forward& f) {
  const int64_t mark = ctx.scratch.mark(), segments = static_cast<int64_t>(f.segments.size());
  f.first_task = static_cast<int64_t*>(ctx.scratch.take((segments + 1) * int64_t{sizeof(int64_t)}));
  make_tasks(f, ctx.team.threads());
  Carver counting;
  Buffers<T>().take(counting, {f.shape.nope + f.shape.rope}, {f.shape.value});
  Carver few;
  FewBuffers<T>().take(few, {f.shape.nope + f.shape.rope}, {f.shape.value});
  f.thread_bytes = few.bytes > counting.bytes ? few.bytes : counting.bytes;
  f.scratch = static_cast<char*>(ctx.scratch.take(f.thread_bytes * ctx.team.threads()));
  ctx.team.run(f.first_task[segments], forward_task<T>, &f);
  ctx.scratch.release(mark);
}

void attention_forward(const Context& ctx, ConstMat q, ConstMat kv, ConstMat k_pe, std::span<const Segment> segments,
                       const AttentionShape& shape, Mat o, Mat lse) {
  Forward f{q, kv, k_pe, segments, shape, o, lse};
  if (q.dtype == DType::bf16) forward<uint16_t>(ctx, f);
  else forward<float>(ctx, f);
}

}  // namespace

void add_attention(Table& table) {
  table.attention_forward = attention_forward;
  table.attention_backward = attention_backward;
}

}  // namespace finback::kernels::FB_ISA
