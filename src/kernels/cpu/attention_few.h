// Attention, forward, for few queries: a token being generated, or a draft being verified. Keys lie along the lanes of the scores and
// values along those of the output, so that one query fills them. Every sum has the order that it has in attention.cpp, term by
// term, and so the same bits.
#pragma once

#include "kernels/cpu/attention_softmax.h"

namespace finback::kernels::FB_ISA {
namespace {

constexpr int64_t kFew = 6;  // queries; with more, filled lanes win

struct Forward {
  ConstMat q, kv, k_pe;
  std::span<const Segment> segments;
  AttentionShape shape;
  Mat o, lse;
  int64_t block;        // queries of a task, a multiple of kGroup
  int64_t* first_task;  // of each segment, and the number of tasks at the end
  char* scratch;
  int64_t thread_bytes;
};

// One thread's memory.
template <class T>
struct FewBuffers {
  Element<T>* rows;     // keys or values as they stand, before they are packed
  Unit* keys;           // [key units][kKeys]
  Unit* values;         // [kKeys / per unit][value lanes]
  Element<T>* queries;  // [kFew][key units]
  float* scores;        // [kKeys], then weights
  Element<T>* weights;  // [kKeys]
  float* out;           // [kFew][value lanes], not yet divided by the sum
  float* factor;        // [kRowLanes]

  void take(Carver& memory, Extent<T> key, Extent<T> value) {
    rows = memory.take<Element<T>>(kKeys * kPerUnit<T> * (key.units() > value.units() ? key.units() : value.units()));
    keys = memory.take<Unit>(key.units() * kKeys);
    values = memory.take<Unit>(kKeys / kPerUnit<T> * value.lanes());
    queries = memory.take<Element<T>>(kFew * key.units() * kPerUnit<T>);
    scores = memory.take<float>(kKeys);
    weights = kPairs<T> ? memory.take<Element<T>>(kKeys) : reinterpret_cast<Element<T>*>(scores);
    out = memory.take<float>(kFew * value.lanes());
    factor = memory.take<float>(kRowLanes);
  }
};

// One head of a segment of at most kFew queries.
template <class T>
void forward_few(const Forward& f, const Segment& s, int64_t head, char* scratch) {
  const Extent<T> key{f.shape.nope + f.shape.rope}, value{f.shape.value};
  const int64_t key_row = key.units() * kPerUnit<T>, kv_column = head * (f.shape.nope + f.shape.value);
  Carver memory{scratch};
  FewBuffers<T> b;
  b.take(memory, key, value);
  pack_rows<T>(f.q, s.q_row, s.rows, head * key.n, key.n, b.queries, key_row);
  pad(b.queries, s.rows, key.n, s.rows, key_row);
  float top[kFew], sum[kFew];
  for (int64_t i = 0; i < s.rows; ++i) top[i] = -kInfinity, sum[i] = 0;

  const float scale = static_cast<float>(f.shape.scale * kLog2E);
  for (int64_t key0 = 0; key0 < s.first_position + s.rows; key0 += kKeys) {
    const int64_t keys = least(kKeys, s.first_position + s.rows - key0);
    pack_rows<T>(f.kv, s.kv_row + key0, keys, kv_column, f.shape.nope, b.rows, key_row);
    pack_rows<T>(f.k_pe, s.kv_row + key0, keys, 0, f.shape.rope, b.rows + f.shape.nope, key_row);
    pad(b.rows, keys, key.n, kKeys, key_row);
    transpose(kKeys, key.units(), reinterpret_cast<const Unit*>(b.rows), key.units(), b.keys, kKeys);
    Element<T>* value_rows = kPairs<T> ? b.rows : reinterpret_cast<Element<T>*>(b.values);
    pack_rows<T>(f.kv, s.kv_row + key0, keys, kv_column + f.shape.nope, value.n, value_rows, value.lanes());
    pad(value_rows, keys, value.n, round_up(keys, 8), value.lanes());
    if constexpr (kPairs<T>) pair_rows(round_up(keys, 8), value.lanes(), value_rows, value.lanes(), b.values, value.lanes());

    for (int64_t i = 0; i < s.rows; ++i) {
      const int64_t seen = least(keys, s.first_position + i + 1 - key0);
      if (seen <= 0) continue;
      product_row<kPairs<T>>(kKeys, key.depth(), reinterpret_cast<const Unit*>(b.queries + i * key_row), b.keys, kKeys, b.scores,
                             Start::zero);
      const float rise = weigh_row<T>(b.scores, seen, scale, top[i], sum[i], b.weights);
      for (int64_t l = 0; l < kRowLanes; l += kRegister) store_r(b.factor + l, splat_r(rise));
      product_row<kPairs<T>>(value.lanes(), round_up(seen, 8) / kPerUnit<T>, reinterpret_cast<const Unit*>(b.weights), b.values,
                             value.lanes(), b.out + i * value.lanes(), key0 == 0 ? Start::zero : Start::scaled, b.factor);
    }
  }

  for (int64_t i = 0; i < s.rows; ++i) {
    float* out = b.out + i * value.lanes();
    for (int64_t d = 0; d < value.lanes(); d += kRegister) store_r(out + d, load_r(out + d) / sum[i] + 0.0f);  // + 0: one sign of zero
    store_row(f.o.row<T>(s.q_row + i) + head * value.n, out, value.n);
    f.lse.row<float>(s.q_row + i)[head] = top[i] * kLn2 + __builtin_logf(sum[i]);
  }
}

}  // namespace
}  // namespace finback::kernels::FB_ISA
