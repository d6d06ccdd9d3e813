// Causal attention, backward (Dao, FlashAttention-2, arXiv 2307.08691, §3.1.2). With S = scale · q·k, P = exp(S − lse):
//   dV = Pᵀ dO    dP = dO Vᵀ    dS = P ∘ (dP − rowsum(dO ∘ O))    dQ = scale · dS K    dK = scale · dSᵀ Q.
// P is formed again in tiles of kKeys keys by kQueries queries, queries along the lanes as in the forward half.
//
// A sum over keys takes blocks of keys in order, a sum over queries blocks of queries, dk_pe the heads. Two ways of going over
// the tiles give the same bits:
//   - by head: one task does a head of a sequence whole, with all its packed queries and dq in memory: five products a tile;
//   - by block: where that memory is too much, or heads are too few for the threads, dk and dv are made by one task for each
//     block of keys and dq by one for each block of queries. S and dP are then formed twice: seven products a tile.
#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_squares.h"

namespace finback::kernels::FB_ISA {
namespace {

constexpr int64_t kKeys = 128, kQueries = 64;
static_assert(kKeys % kQueries == 0 && kQueries % kGroup == 0 && kGroup == 2 * kSquare);

// Queries and keys are padded to as many as the products take: whole squares of units along a sum, where there are matrix registers.
template <class T>
constexpr int64_t kQueryPad = kSquares<T> ? kGroup : kLanes;
template <class T>
constexpr int64_t kKeyPad = kSquares<T> ? kGroup : 8;

struct Backward {
  ConstMat q, kv, k_pe, o, lse, d_o;
  std::span<const Segment> segments;
  AttentionShape shape;
  Mat dq, dkv, dk_pe;
  char* scratch;  // of the threads
  int64_t thread_bytes;
  // By head: each thread has room for the packed queries of one head, and uses it again, so that it stays in the thread's cache. Of the
  // units (segment · heads + head) first … last-1 the parts of dk_pe are in memory together.
  char* queries;
  int64_t queries_bytes;  // of a thread
  char* parts;
  int64_t* offsets;  // of each segment's head 0, in `parts`
  int64_t first, last;
  float* carry;  // dk_pe of the segment whose heads are not all done
  // By block.
  const int64_t* first_task;

  const Segment& segment(int64_t i) const { return segments[static_cast<size_t>(i)]; }
  int64_t key_size() const { return shape.nope + shape.rope; }
};

constexpr int64_t blocks(int64_t rows, int64_t size) { return (rows + size - 1) / size; }

// A block of queries, packed for every product that it takes part in.
template <class T>
struct QueryBlock {
  Unit* queries;       // [key units][kQueries]
  Unit* query_rows;    // [kQueries / per unit][key lanes]
  Unit* d_out;         // [value units][kQueries]
  Unit* d_out_rows;    // [kQueries / per unit][value lanes]
  float *lse, *delta;  // [kQueries]: lse · log2 e, and rowsum(dO ∘ O)
  float* dq;           // [key lanes][kQueries], not yet scaled

  void take(Carver& memory, Extent<T> key, Extent<T> value) {
    queries = memory.take<Unit>(key.units() * kQueries);
    query_rows = memory.take<Unit>(kQueries / kPerUnit<T> * key.lanes());
    d_out = memory.take<Unit>(value.units() * kQueries);
    d_out_rows = memory.take<Unit>(kQueries / kPerUnit<T> * value.lanes());
    lse = memory.take<float>(kQueries);
    delta = memory.take<float>(kQueries);
    dq = memory.take<float>(key.lanes() * kQueries);
  }
};

// One thread's memory: a block of keys and what is made of a tile.
template <class T>
struct Buffers {
  Element<T>* rows;     // queries, keys or gradients as they stand, before they are packed
  Element<T>* keys;     // [kKeys][key units]
  Unit* key_pairs;      // [kKeys / per unit][key lanes]
  Unit* key_columns;    // [key lanes][kKeys / per unit], where there are matrix registers
  Element<T>* values;   // [kKeys][value units]
  float* dk;            // [kKeys][key lanes], not yet scaled
  float* dv;            // [kKeys][value lanes]
  float* scores;        // [kKeys][kQueries]
  float* d_weights;     // [kKeys][kQueries]
  Unit* weights;        // [kKeys][kQueries / per unit]: P
  Unit* d_scores;       // [kKeys][kQueries / per unit]: dS
  Unit* d_score_pairs;  // [kKeys / per unit][kQueries]: dS
  float* dq_rows;       // [kQueries][key lanes]
  float* dk_pe;         // [kKeys][rope]
  QueryBlock<T> query;  // by block

  void take(Carver& memory, Extent<T> key, Extent<T> value, int64_t rope) {
    rows = memory.take<Element<T>>(kKeys * kPerUnit<T> * (key.units() > value.units() ? key.units() : value.units()));
    keys = memory.take<Element<T>>(kKeys * kPerUnit<T> * key.units());
    key_pairs = kPairs<T> ? memory.take<Unit>(kKeys / 2 * key.lanes()) : reinterpret_cast<Unit*>(keys);
    key_columns = kSquares<T> ? memory.take<Unit>(kKeys / 2 * key.lanes()) : nullptr;
    values = memory.take<Element<T>>(kKeys * kPerUnit<T> * value.units());
    dk = memory.take<float>(kKeys * key.lanes());
    dv = memory.take<float>(kKeys * value.lanes());
    scores = memory.take<float>(kKeys * kQueries);
    d_weights = memory.take<float>(kKeys * kQueries);
    if constexpr (kPairs<T>) {
      weights = memory.take<Unit>(kKeys * kQueries / 2);
      d_scores = memory.take<Unit>(kKeys * kQueries / 2);
      d_score_pairs = memory.take<Unit>(kKeys / 2 * kQueries);
    } else {
      weights = reinterpret_cast<Unit*>(scores);
      d_scores = d_score_pairs = reinterpret_cast<Unit*>(d_weights);
    }
    dq_rows = memory.take<float>(kQueries * key.lanes());
    dk_pe = memory.take<float>(kKeys * rope);
    query.take(memory, key, value);
  }
};

// One head of one segment, in one thread.
template <class T>
struct Head {
  const Backward& b;
  const Segment& s;
  int64_t head;
  Extent<T> key, value;
  Buffers<T>& t;

  int64_t query_rows(int64_t block) const { return least(kQueries, s.rows - block * kQueries); }
  int64_t key_rows(int64_t block) const { return least(kKeys, s.rows - block * kKeys); }

  void pack_queries(int64_t block, QueryBlock<T>& to) const;
  void pack_keys(int64_t block) const;
  void products_of_scores(const QueryBlock<T>& query, int64_t lane0, int64_t lanes, int64_t keys) const;
  void add_dq(const QueryBlock<T>& query, int64_t lane0, int64_t lanes, int64_t keys, Start start) const;
  void add_dkv(const QueryBlock<T>& query, int64_t rows, int64_t keys, int64_t distance) const;
  void differentiate(const QueryBlock<T>& query, int64_t lane0, int64_t lanes, int64_t keys, int64_t diagonal) const;
  void tile(int64_t query_block, const QueryBlock<T>& query, int64_t key_block, bool want_dq, bool want_dkv) const;
  void write_dq(int64_t block, const QueryBlock<T>& query) const;
  void write_dkv(int64_t block) const;
};

template <class T>
float dot_row(const T* a, const T* b, int64_t n) {
  vf sum{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if constexpr (sizeof(T) == 2) sum = madd(load_bf16(a + i), load_bf16(b + i), sum);
    else sum = madd(load(a + i), load(b + i), sum);
  }
  float rest_a[kLanes] = {}, rest_b[kLanes] = {};
  pack_row(a + i, n - i, rest_a);
  pack_row(b + i, n - i, rest_b);
  return horizontal_sum(madd(load(rest_a), load(rest_b), sum));
}

template <class T>
void Head<T>::pack_queries(int64_t block, QueryBlock<T>& to) const {
  const int64_t row = s.q_row + block * kQueries, rows = query_rows(block), lanes = round_up(rows, kQueryPad<T>);
  const auto pack = [&](const ConstMat& from, Extent<T> size, Unit* along_lanes, Unit* along_rows) {
    Element<T>* staged = kPairs<T> ? t.rows : reinterpret_cast<Element<T>*>(along_rows);
    pack_rows<T>(from, row, rows, head * size.n, size.n, staged, size.units() * kPerUnit<T>);
    pad(staged, rows, size.n, lanes, size.units() * kPerUnit<T>);
    transpose(lanes, size.units(), reinterpret_cast<const Unit*>(staged), size.units(), along_lanes, kQueries);
    if constexpr (kPairs<T>) pair_rows(lanes, size.lanes(), staged, size.units() * 2, along_rows, size.lanes());
  };
  pack(b.q, key, to.queries, to.query_rows);
  pack(b.d_o, value, to.d_out, to.d_out_rows);
  for (int64_t i = 0; i < kQueries; ++i) {
    const bool real = i < rows;
    to.lse[i] = real ? b.lse.row<float>(row + i)[head] * static_cast<float>(kLog2E) : 0;
    to.delta[i] = real ? dot_row(b.d_o.row<T>(row + i) + head * value.n, b.o.row<T>(row + i) + head * value.n, value.n) : 0;
  }
}

template <class T>
void Head<T>::pack_keys(int64_t block) const {
  const int64_t row = s.kv_row + block * kKeys, rows = key_rows(block), padded = round_up(rows, kKeyPad<T>);
  const int64_t column = head * (b.shape.nope + b.shape.value), width = key.units() * kPerUnit<T>,
                value_width = value.units() * kPerUnit<T>;
  pack_rows<T>(b.kv, row, rows, column, b.shape.nope, t.keys, width);
  pack_rows<T>(b.k_pe, row, rows, 0, b.shape.rope, t.keys + b.shape.nope, width);
  pad(t.keys, rows, key.n, padded, width);
  if constexpr (kPairs<T>) pair_rows(padded, key.lanes(), t.keys, width, t.key_pairs, key.lanes());
  if constexpr (kSquares<T>) transpose(padded / 2, key.lanes(), t.key_pairs, key.lanes(), t.key_columns, kKeys / 2);
  pack_rows<T>(b.kv, row, rows, column + b.shape.nope, value.n, t.values, value_width);
  pad(t.values, rows, value.n, padded, value_width);
}

// Scores and dP to P and dS. Key j is masked for lane l (counted from lane0) when l < j + diagonal.
template <class T>
void Head<T>::differentiate(const QueryBlock<T>& query, int64_t lane0, int64_t lanes, int64_t keys, int64_t diagonal) const {
  const int64_t unmasked = least(diagonal > 0 ? 0 : 1 - diagonal, keys) & ~int64_t{1};
  const vr scale = splat_r(static_cast<float>(b.shape.scale * kLog2E));
  for (int64_t l = 0; l < lanes; l += kRegister) {
    const int64_t lane = lane0 + l;
    const vr lse = load_r(query.lse + lane), delta = load_r(query.delta + lane), number = lane_numbers() + static_cast<float>(l);
    const auto pair = [&](int64_t j, bool masked) {
      vr p[2], ds[2];
#pragma GCC unroll 2
      for (int64_t i = 0; i < 2; ++i) {
        const int64_t at = (j + i) * kQueries + lane;
        p[i] = weight_of<T>(madd(load_r(t.scores + at), scale, -lse));
        if (masked) p[i] = number >= static_cast<float>(j + i + diagonal) ? p[i] : vr{};
        ds[i] = p[i] * (load_r(t.d_weights + at) - delta);
        if constexpr (kPairs<T>) {
          store_halves(reinterpret_cast<uint16_t*>(t.weights) + at, p[i]);
          store_halves(reinterpret_cast<uint16_t*>(t.d_scores) + at, ds[i]);
        } else {
          store_r(t.scores + at, p[i]);
          store_r(t.d_weights + at, ds[i]);
        }
      }
      if constexpr (kPairs<T>) store_pairs(t.d_score_pairs + j / 2 * kQueries + lane, ds[0], ds[1]);
    };
    for (int64_t j = 0; j < unmasked; j += 2) pair(j, false);
    for (int64_t j = unmasked; j < keys; j += 2) pair(j, true);
  }
}

// Scores and dP of a group of queries.
template <class T>
void Head<T>::products_of_scores(const QueryBlock<T>& query, int64_t lane0, int64_t lanes, int64_t keys) const {
  const Unit* key_units = reinterpret_cast<const Unit*>(t.keys);
  const Unit* value_units = reinterpret_cast<const Unit*>(t.values);
  const Unit *queries = query.queries + lane0, *d_out = query.d_out + lane0;
  float *scores = t.scores + lane0, *d_weights = t.d_weights + lane0;
  if constexpr (kSquares<T>) {
    const int64_t rows = round_up(keys, kSquare);
    square_product(rows, lanes, key.units(), key_units, key.units(), queries, kQueries, scores, kQueries, Start::zero);
    square_product(rows, lanes, value.units(), value_units, value.units(), d_out, kQueries, d_weights, kQueries, Start::zero);
  } else {
    product<kPairs<T>>(keys, lanes, key.depth(), key_units, key.units(), 1, queries, kQueries, scores, kQueries, Start::zero);
    product<kPairs<T>>(keys, lanes, value.depth(), value_units, value.units(), 1, d_out, kQueries, d_weights, kQueries, Start::zero);
  }
}

template <class T>
void Head<T>::add_dq(const QueryBlock<T>& query, int64_t lane0, int64_t lanes, int64_t keys, Start start) const {
  const int64_t units = keys / kPerUnit<T>;
  Unit* d_scores = t.d_score_pairs + lane0;
  if constexpr (kSquares<T>) {
    const int64_t whole = round_up(units, kSquare);
    for (int64_t u = units; u < whole; ++u) memset(d_scores + u * kQueries, 0, static_cast<size_t>(lanes) * sizeof(Unit));
    square_product(key.lanes(), lanes, whole, t.key_columns, kKeys / 2, d_scores, kQueries, query.dq + lane0, kQueries, start);
  } else {
    product<kPairs<T>>(key.lanes(), lanes, units, t.key_pairs, 1, key.lanes(), d_scores, kQueries, query.dq + lane0, kQueries, start);
  }
}

// What lies above the diagonal is left out: in rows of 8 keys, or with matrix registers of a group.
template <class T>
void Head<T>::add_dkv(const QueryBlock<T>& query, int64_t rows, int64_t keys, int64_t distance) const {
  constexpr int64_t kPer = kPerUnit<T>, kRow = kQueries / kPer;
  const int64_t end = round_up(rows, kSquares<T> ? kGroup : kPer) / kPer;
  for (int64_t j = 0, count; j < keys; j += count) {
    const int64_t first_row = j - distance;  // the first query that sees key j; before 0 all of them do
    if (first_row >= rows) break;
    const int64_t first = first_row < 0 ? 0 : first_row / kPer, at = j * kRow + first;
    const Unit *d_out = query.d_out_rows + first * value.lanes(), *queries = query.query_rows + first * key.lanes();
    float *dv = t.dv + j * value.lanes(), *dk = t.dk + j * key.lanes();
    if constexpr (kSquares<T>) {
      count = kGroup;
      const int64_t squares = round_up(least(keys - j, kGroup), kSquare);
      square_product(squares, value.lanes(), end - first, t.weights + at, kRow, d_out, value.lanes(), dv, value.lanes(), Start::add);
      square_product(squares, key.lanes(), end - first, t.d_scores + at, kRow, queries, key.lanes(), dk, key.lanes(), Start::add);
    } else {
      count = first_row < 0 ? least(keys - j, -first_row) : 8;
      product<kPairs<T>>(count, value.lanes(), end - first, t.weights + at, kRow, 1, d_out, value.lanes(), dv, value.lanes(), Start::add);
      product<kPairs<T>>(count, key.lanes(), end - first, t.d_scores + at, kRow, 1, queries, key.lanes(), dk, key.lanes(), Start::add);
    }
  }
}

// Adds one tile to dq of its queries and to dk and dv of its keys.
template <class T>
void Head<T>::tile(int64_t query_block, const QueryBlock<T>& query, int64_t key_block, bool want_dq, bool want_dkv) const {
  const int64_t rows = query_rows(query_block), keys = round_up(key_rows(key_block), 8);
  const int64_t distance = query_block * kQueries - key_block * kKeys;  // from the first key to the first query
  for (int64_t g = 0; g < rows; g += kGroup) {
    const int64_t lanes = round_up(least(kGroup, rows - g), kQueryPad<T>);
    const int64_t seen = least(keys, round_up(distance + least(g + kGroup, rows), 8));
    if (seen <= 0) continue;
    products_of_scores(query, g, lanes, seen);
    differentiate(query, g, lanes, seen, -distance - g);
    if (want_dq) add_dq(query, g, lanes, seen, key_block == 0 ? Start::zero : Start::add);
  }
  if (want_dkv) add_dkv(query, rows, keys, distance);
}

template <class T>
void Head<T>::write_dq(int64_t block, const QueryBlock<T>& query) const {
  const int64_t rows = query_rows(block);
  const float scale = static_cast<float>(b.shape.scale);
  transpose(key.lanes(), round_up(rows, kLanes), reinterpret_cast<const Unit*>(query.dq), kQueries, reinterpret_cast<Unit*>(t.dq_rows),
            key.lanes());
  for (int64_t i = 0; i < rows; ++i) {
    float* row = t.dq_rows + i * key.lanes();
    for (int64_t d = 0; d < key.lanes(); d += kRegister) store_r(row + d, load_r(row + d) * scale);
    store_row(b.dq.template row<T>(s.q_row + block * kQueries + i) + head * key.n, row, key.n);
  }
}

// Writes dkv; leaves the scaled dk, whose rope part is this head's share of dk_pe, in place.
template <class T>
void Head<T>::write_dkv(int64_t block) const {
  const float scale = static_cast<float>(b.shape.scale);
  for (int64_t j = 0; j < key_rows(block); ++j) {
    float* dk = t.dk + j * key.lanes();
    for (int64_t d = 0; d < key.lanes(); d += kRegister) store_r(dk + d, load_r(dk + d) * scale);
    T* to = b.dkv.template row<T>(s.kv_row + block * kKeys + j) + head * (b.shape.nope + b.shape.value);
    store_row(to, dk, b.shape.nope);
    store_row(to + b.shape.nope, t.dv + j * value.lanes(), value.n);
  }
}

template <class T>
void clear_dkv(const Head<T>& h) {
  memset(h.t.dk, 0, static_cast<size_t>(kKeys * h.key.lanes()) * sizeof(float));
  memset(h.t.dv, 0, static_cast<size_t>(kKeys * h.value.lanes()) * sizeof(float));
}

template <class T>
Buffers<T> thread_buffers(const Backward& b, int thread) {
  Carver memory{b.scratch + thread * b.thread_bytes};
  Buffers<T> t;
  t.take(memory, {b.key_size()}, {b.shape.value}, b.shape.rope);
  return t;
}

// ---- by head

template <class T>
int64_t query_block_bytes(const Backward& b) {
  Carver counting;
  QueryBlock<T>().take(counting, {b.key_size()}, {b.shape.value});
  return counting.bytes;
}

// A unit's part of dk_pe: [rows, rope].
int64_t part_bytes(const Backward& b, const Segment& s) { return round_up(s.rows * b.shape.rope * 4, 64); }
float* part_of(const Backward& b, int64_t segment, int64_t head) {
  char* part = b.parts + b.offsets[segment] + head * part_bytes(b, b.segment(segment));
  return reinterpret_cast<float*>(static_cast<void*>(part));
}

template <class T>
void head_task(void* argument, int64_t task, int thread) {
  const Backward& b = *static_cast<const Backward*>(argument);
  const int64_t segment = (b.first + task) / b.shape.heads, head = (b.first + task) % b.shape.heads;
  const Segment& s = b.segment(segment);
  [[maybe_unused]] const SquareRegisters<kSquares<T>> registers;
  Buffers<T> t = thread_buffers<T>(b, thread);
  const Head<T> h{b, s, head, {b.key_size()}, {b.shape.value}, t};

  const int64_t block_bytes = query_block_bytes<T>(b), query_blocks = blocks(s.rows, kQueries);
  const auto query = [&](int64_t block) {
    Carver memory{b.queries + thread * b.queries_bytes + block * block_bytes};
    QueryBlock<T> q;
    q.take(memory, h.key, h.value);
    return q;
  };
  for (int64_t i = 0; i < query_blocks; ++i) {
    QueryBlock<T> q = query(i);
    h.pack_queries(i, q);
  }
  float* dk_pe = part_of(b, segment, head);
  for (int64_t k = 0; k < blocks(s.rows, kKeys); ++k) {
    h.pack_keys(k);
    clear_dkv(h);
    for (int64_t i = k * (kKeys / kQueries); i < query_blocks; ++i) h.tile(i, query(i), k, /*want_dq=*/true, /*want_dkv=*/true);
    h.write_dkv(k);
    for (int64_t j = 0; j < h.key_rows(k); ++j)
      memcpy(dk_pe + (k * kKeys + j) * b.shape.rope, t.dk + j * h.key.lanes() + b.shape.nope,
             static_cast<size_t>(b.shape.rope) * sizeof(float));
  }
  for (int64_t i = 0; i < query_blocks; ++i) h.write_dq(i, query(i));
}

// dk_pe of one segment's rows: the sum over the heads in memory, in order, after those of earlier rounds.
struct SumHeads {
  const Backward& b;
  int64_t segment, first_head, last_head;
};

template <class T>
void sum_heads_task(void* argument, int64_t task, int thread) {
  const SumHeads& r = *static_cast<const SumHeads*>(argument);
  const Backward& b = r.b;
  const int64_t rope = b.shape.rope;
  float* sum = thread_buffers<T>(b, thread).dk_pe;
  for (int64_t row = task * kKeys; row < least((task + 1) * kKeys, b.segment(r.segment).rows); ++row) {
    if (r.first_head == 0) memset(sum, 0, static_cast<size_t>(rope) * sizeof(float));
    else memcpy(sum, b.carry + row * rope, static_cast<size_t>(rope) * sizeof(float));
    for (int64_t h = r.first_head; h < r.last_head; ++h) {
      const float* part = part_of(b, r.segment, h) + row * rope;
      for (int64_t d = 0; d < rope; ++d) sum[d] += part[d];
    }
    if (r.last_head == b.shape.heads) store_row(b.dk_pe.row<T>(b.segment(r.segment).kv_row + row), sum, rope);
    else memcpy(b.carry + row * rope, sum, static_cast<size_t>(rope) * sizeof(float));
  }
}

// Runs as many units at once as fit into `budget` bytes.
template <class T>
void backward_by_head(const Context& ctx, Backward& b, int64_t budget) {
  const int64_t heads = b.shape.heads, units = static_cast<int64_t>(b.segments.size()) * heads;
  for (b.first = 0; b.first < units; b.first = b.last) {
    int64_t used = 0;
    for (b.last = b.first; b.last < units; ++b.last) {
      const int64_t segment = b.last / heads, bytes = part_bytes(b, b.segment(segment));
      if (used + bytes > budget) break;
      if (b.last == b.first || b.last % heads == 0) b.offsets[segment] = used - b.last % heads * bytes;
      used += bytes;
    }
    ctx.team.run(b.last - b.first, head_task<T>, &b);
    for (int64_t segment = b.first / heads; segment * heads < b.last; ++segment) {
      const int64_t before = b.first - segment * heads;
      SumHeads r{b, segment, before > 0 ? before : 0, least(heads, b.last - segment * heads)};
      ctx.team.run(blocks(b.segment(segment).rows, kKeys), sum_heads_task<T>, &r);
    }
  }
}

// ---- by block

template <class T>
void key_block_task(void* argument, int64_t task, int thread) {
  const Backward& b = *static_cast<const Backward*>(argument);
  const int64_t segment = segment_of(b.first_task, static_cast<int64_t>(b.segments.size()), task);
  const Segment& s = b.segment(segment);
  task -= b.first_task[segment];
  [[maybe_unused]] const SquareRegisters<kSquares<T>> registers;
  Buffers<T> t = thread_buffers<T>(b, thread);
  const int64_t rope = b.shape.rope;
  memset(t.dk_pe, 0, static_cast<size_t>(kKeys * rope) * sizeof(float));
  for (int64_t head = 0; head < b.shape.heads; ++head) {
    const Head<T> h{b, s, head, {b.key_size()}, {b.shape.value}, t};
    h.pack_keys(task);
    clear_dkv(h);
    for (int64_t i = task * (kKeys / kQueries); i < blocks(s.rows, kQueries); ++i) {
      h.pack_queries(i, t.query);
      h.tile(i, t.query, task, /*want_dq=*/false, /*want_dkv=*/true);
    }
    h.write_dkv(task);
    for (int64_t j = 0; j < h.key_rows(task); ++j)
      for (int64_t d = 0; d < rope; ++d) t.dk_pe[j * rope + d] += t.dk[j * h.key.lanes() + b.shape.nope + d];
  }
  for (int64_t j = 0; j < least(kKeys, s.rows - task * kKeys); ++j)
    store_row(b.dk_pe.row<T>(s.kv_row + task * kKeys + j), t.dk_pe + j * rope, rope);
}

template <class T>
void query_block_task(void* argument, int64_t task, int thread) {
  const Backward& b = *static_cast<const Backward*>(argument);
  const int64_t segment = segment_of(b.first_task, static_cast<int64_t>(b.segments.size()), task);
  const Segment& s = b.segment(segment);
  task -= b.first_task[segment];
  [[maybe_unused]] const SquareRegisters<kSquares<T>> registers;
  Buffers<T> t = thread_buffers<T>(b, thread);
  const int64_t query_blocks = blocks(s.rows, kQueries), block = query_blocks - 1 - task % query_blocks;  // the longest first
  const Head<T> h{b, s, task / query_blocks, {b.key_size()}, {b.shape.value}, t};
  h.pack_queries(block, t.query);
  for (int64_t k = 0; k * kKeys < block * kQueries + h.query_rows(block); ++k) {
    h.pack_keys(k);
    h.tile(block, t.query, k, /*want_dq=*/true, /*want_dkv=*/false);
  }
  h.write_dq(block, t.query);
}

template <class T>
void backward_by_block(const Context& ctx, Backward& b, int64_t* first_task) {
  const int64_t segments = static_cast<int64_t>(b.segments.size());
  b.first_task = first_task;
  first_task[0] = 0;
  for (int64_t i = 0; i < segments; ++i) first_task[i + 1] = first_task[i] + blocks(b.segment(i).rows, kKeys);
  ctx.team.run(first_task[segments], key_block_task<T>, &b);
  for (int64_t i = 0; i < segments; ++i) first_task[i + 1] = first_task[i] + b.shape.heads * blocks(b.segment(i).rows, kQueries);
  ctx.team.run(first_task[segments], query_block_task<T>, &b);
}

template <class T>
void backward(const Context& ctx, Backward& b) {
  const int64_t mark = ctx.scratch.mark(), segments = static_cast<int64_t>(b.segments.size()), threads = ctx.team.threads();
  int64_t* table = static_cast<int64_t*>(ctx.scratch.take((segments + 1) * int64_t{sizeof(int64_t)}));
  Carver counting;
  Buffers<T>().take(counting, {b.key_size()}, {b.shape.value}, b.shape.rope);
  b.thread_bytes = counting.bytes;
  b.scratch = static_cast<char*>(ctx.scratch.take(b.thread_bytes * threads));

  int64_t longest = 0, all = 0;
  for (const Segment& s : b.segments) {
    if (s.rows > longest) longest = s.rows;
    all += b.shape.heads * part_bytes(b, s);
  }
  b.queries_bytes = blocks(longest, kQueries) * query_block_bytes<T>(b);
  const int64_t carry = round_up(longest * b.shape.rope * 4, 64);
  const int64_t left = least(scratch_bytes(static_cast<int>(threads)), ctx.scratch.capacity() - mark) - (ctx.scratch.mark() - mark);
  const int64_t budget = least((left - threads * b.queries_bytes - carry) / 64 * 64, all);
  const int64_t units = segments * b.shape.heads;
  if (units >= threads && least(threads * carry, all) <= budget) {
    b.offsets = table;
    b.queries = static_cast<char*>(ctx.scratch.take(threads * b.queries_bytes));
    b.carry = static_cast<float*>(ctx.scratch.take(carry));
    b.parts = static_cast<char*>(ctx.scratch.take(budget));
    backward_by_head<T>(ctx, b, budget);
  } else {
    backward_by_block<T>(ctx, b, table);
  }
  ctx.scratch.release(mark);
}

}  // namespace

void attention_backward(const Context& ctx, ConstMat q, ConstMat kv, ConstMat k_pe, ConstMat o, ConstMat lse, ConstMat d_o,
                        std::span<const Segment> segments, const AttentionShape& shape, Mat dq, Mat dkv, Mat dk_pe) {
  Backward b{q, kv, k_pe, o, lse, d_o, segments, shape, dq, dkv, dk_pe};
  if (q.dtype == DType::bf16) backward<uint16_t>(ctx, b);
  else backward<float>(ctx, b);
}

}  // namespace finback::kernels::FB_ISA
