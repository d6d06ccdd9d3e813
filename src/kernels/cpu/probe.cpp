// The probes of one instruction set (kernels/probe.h).
#include "kernels/probe.h"
#include "kernels/cpu/entries.h"
#include "kernels/cpu/tile_amx.h"

namespace finback::kernels::FB_ISA {
namespace {

// Enough chains to hide an instruction's latency in every register file.
#if defined(__AVX512F__)
constexpr int kChains = 24;
#else
constexpr int kChains = 12;
#endif

// Runs step(sum) on every chain, round after round. The compiler cannot see through `keep`, so it drops nothing.
template <class Vector>
inline void keep(Vector& x) {
#if defined(__x86_64__)
  asm volatile("" : "+x"(x));
#else
  asm volatile("" : "+w"(x));
#endif
}

template <class Step>
double run_chains(int64_t rounds, double operations_per_lane, Step step) {
  typename Step::Vector sum[kChains] = {};
#pragma GCC unroll 24
  for (int c = 0; c < kChains; ++c) keep(sum[c]);  // or the compiler would see that all chains are one
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) sum[c] = step(sum[c]);
#pragma GCC unroll 24
  for (int c = 0; c < kChains; ++c) keep(sum[c]);
  return static_cast<double>(rounds) * kChains * kRegister * operations_per_lane;
}

struct StepFp32 {
  using Vector = vr;
  vr a, b;
  // The sum is a factor, so that no product can be taken out of the loop.
  vr operator()(vr sum) const { return sum * a + b; }
};

double fp32(int64_t rounds) {
  StepFp32 step{0.5f - vr{}, 1.0f - vr{}};
  keep(step.a), keep(step.b);
  return run_chains(rounds, 2, step);
}

#if defined(__AMX_BF16__)
// Rounds of four independent sums in matrix registers, from a and b of zeros; `operations` in each of the instructions.
template <class Step>
double run_matrices(int64_t rounds, double operations, Step step) {
  use_shapes(kSquare, kSquare, kSquare);
  clear_square<0>(), clear_square<1>(), clear_square<2>(), clear_square<3>();
  clear_square<4>(), clear_square<5>(), clear_square<6>(), clear_square<7>();
  for (int64_t r = 0; r < rounds; ++r) step();
  asm volatile("tilerelease");
  return static_cast<double>(rounds) * 4 * operations;
}

double bf16(int64_t rounds) {
  return run_matrices(rounds, 2 * 16 * 16 * 32, [] {
    multiply_squares<0, 4, 6>(), multiply_squares<1, 4, 7>(), multiply_squares<2, 5, 6>(), multiply_squares<3, 5, 7>();
  });
}
#elif defined(__AVX512BF16__)
struct StepBf16 {
  using Vector = vr;
  vr a, b;
  vr operator()(vr sum) const { return multiply_add<true>(sum, a, b); }
};

double bf16(int64_t rounds) {
  StepBf16 step{1.0f - vr{}, 1.0f - vr{}};
  keep(step.a), keep(step.b);
  return run_chains(rounds, 4, step);
}
#else
double bf16(int64_t rounds) { return fp32(rounds); }     // widened: a multiply-add each
#endif

typedef int32_t vri __attribute__((vector_size(kBytes)));

struct StepInt8 {
  using Vector = vri;
  vri a, b;
#if defined(__AVX512VNNI__)
  vri operator()(vri sum) const {
    return bits_as<vri>(_mm512_dpbusd_epi32(bits_as<__m512i>(sum), bits_as<__m512i>(a), bits_as<__m512i>(b)));
  }
#elif defined(__AVX2__)
  // Pairs of bytes to 16 bits, pairs of those to 32.
  vri operator()(vri sum) const {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_xor_si256(bits_as<__m256i>(a), bits_as<__m256i>(sum)), bits_as<__m256i>(b));
    return sum + bits_as<vri>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
#else
  vri operator()(vri sum) const { return sum * a + b; }  // widened: a multiply-add each
#endif
};
#if defined(__AVX2__)
constexpr double kInt8Operations = 8;
#else
constexpr double kInt8Operations = 2;
#endif

#if defined(__AMX_INT8__)
double int8(int64_t rounds) {
  return run_matrices(rounds, 2 * 16 * 16 * 64, [] {
    asm volatile("tdpbusd %tmm6, %tmm4, %tmm0; tdpbusd %tmm7, %tmm4, %tmm1; tdpbusd %tmm6, %tmm5, %tmm2; tdpbusd %tmm7, %tmm5, %tmm3");
  });
}
#else
double int8(int64_t rounds) {
  StepInt8 step{1 - vri{}, 1 - vri{}};
  keep(step.a), keep(step.b);
  return run_chains(rounds, kInt8Operations, step);
}
#endif

template <int kStreams>
uint32_t read_streams(const char* data, int64_t bytes, int64_t prefetch) {
  constexpr int64_t kStep = 256;
  const int64_t each = bytes / kStreams;
  vri digest[4] = {};
  for (int64_t i = 0; i < each; i += kStep)
    for (int s = 0; s < kStreams; ++s) {
      const char* p = data + s * each + i;
      if (prefetch > 0)
        for (int64_t line = 0; line < kStep; line += 64) __builtin_prefetch(p + prefetch + line);
#pragma GCC unroll 16
      for (int64_t at = 0; at < kStep; at += kBytes) digest[at / kBytes % 4] ^= *reinterpret_cast<const vri*>(p + at);
    }
  digest[0] ^= digest[1] ^ digest[2] ^ digest[3];
  uint32_t sum = 0;
  for (int l = 0; l < kRegister; ++l) sum ^= static_cast<uint32_t>(digest[0][l]);
  return sum;
}

uint32_t read(const void* data, int64_t bytes, int streams, int64_t prefetch) {
  const char* p = static_cast<const char*>(data);
  if (streams == 4) return read_streams<4>(p, bytes, prefetch);
  if (streams == 2) return read_streams<2>(p, bytes, prefetch);
  return read_streams<1>(p, bytes, prefetch);
}

// A run of memory that is gone through in pieces of kPiece, as far as the longest of its companions has come.
constexpr int64_t kPiece = 256;
struct Run {
  char* data;
  int64_t pieces, done = 0;
  char* next(int64_t step, int64_t steps) {  // null: it is ahead
    if (done * steps > step * pieces || done == pieces) return nullptr;
    return data + done++ * kPiece;
  }
};

uint32_t move(const void* from, int64_t read_bytes, void* updated, int64_t updated_bytes, void* written, int64_t written_bytes,
              int64_t prefetch) {
  Run in{const_cast<char*>(static_cast<const char*>(from)), read_bytes / kPiece}, both{static_cast<char*>(updated), updated_bytes / kPiece},
      out{static_cast<char*>(written), written_bytes / kPiece};
  int64_t steps = in.pieces;
  for (const Run* r : {&both, &out})
    if (r->pieces > steps) steps = r->pieces;
  vri digest[4] = {}, value = 1 - vri{};
  keep(value);
  for (int64_t i = 0; i < steps; ++i) {
    if (const char* p = in.next(i, steps)) {
      if (prefetch > 0)
        for (int64_t line = 0; line < kPiece; line += 64) __builtin_prefetch(p + prefetch + line);
#pragma GCC unroll 16
      for (int64_t at = 0; at < kPiece; at += kBytes) digest[at / kBytes % 4] ^= *reinterpret_cast<const vri*>(p + at);
    }
    if (char* p = both.next(i, steps))
#pragma GCC unroll 16
      for (int64_t at = 0; at < kPiece; at += kBytes) *reinterpret_cast<vri*>(p + at) ^= value;
    if (char* p = out.next(i, steps))
#pragma GCC unroll 16
      for (int64_t at = 0; at < kPiece; at += kBytes) *reinterpret_cast<vri*>(p + at) = value;
  }
  digest[0] ^= digest[1] ^ digest[2] ^ digest[3];
  uint32_t sum = 0;
  for (int l = 0; l < kRegister; ++l) sum ^= static_cast<uint32_t>(digest[0][l]);
  return sum;
}

}  // namespace

void add_probe(Probe& probe) { probe = {fp32, bf16, int8, read, move}; }

}  // namespace finback::kernels::FB_ISA
