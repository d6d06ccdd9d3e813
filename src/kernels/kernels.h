// The kernels: one table of functions that every backend fills. Whoever calls them says `ctx.kernels.rms_norm_forward(ctx, …)`.
//
// Dimension letters, here and everywhere (a name's suffix is its shape, row-major, last dimension contiguous):
//   T tokens · D hidden_size · H heads · N qk_nope_head_dim · R qk_rope_head_dim · V v_head_dim · C kv_lora_rank ·
//   Q q_lora_rank · E experts · K chosen experts a token · F feed-forward width · S permuted slots (one a token and chosen
//   expert) · W vocabulary · G groups of a grouped product. In products alone: y_SN = x_SK · w_NKᵀ as in the checkpoint.
//
// Types. A "storage" type is bf16, f32 or f64, the same for all activations and weights of a call unless said otherwise;
// an "accumulator" is f32 for bf16 and f32 storage, f64 for f64. Sums are formed in the accumulator type and rounded once
// to storage, to nearest even. The reference twins form every sum in double.
//
// Exactness (docs/exactness.md). In forward and backward_input functions a row of the result is a function of that row's
// inputs alone: not of other rows, of how many there are, of padding, of the weights' layout or of threads, bit for bit, on
// one instruction-set path. backward_weight functions sum over rows in one order that depends on sizes alone; they form
// the sum of this call first and then add it to what stands in the output (micro-batches are added in order).
//
// Memory. Outputs and saved tensors are the caller's. A kernel may take temporaries from ctx.scratch, at most
// scratch_bytes(threads) in all, and gives them back. Nothing else allocates.
#pragma once

#include "core/arena.h"
#include "core/spans.h"
#include "core/team.h"
#include "core/tensor.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace finback::kernels {

using core::Arena;
using core::ConstMat;
using core::DType;
using core::Mat;
using core::Team;

struct Table;

// All that a computation needs; passed down, never global. A second rank, socket or GPU is a second context.
struct Context {
  const Table& kernels;
  Team& team;
  Arena& scratch;
  core::Spans* spans = nullptr;  // where time goes is recorded (kernels/traced.h); null: it is not
};

constexpr std::int64_t scratch_bytes(int threads) { return (std::int64_t{64} << 20) + threads * (std::int64_t{8} << 20); }

// Narrow codes share scales by tiles of up to 128 elements; a code's number times its tile's scale is the element [V3 §3.3.2].
constexpr std::int64_t kTile = 128;
constexpr std::int64_t tiles_of(std::int64_t n) { return (n + kTile - 1) / kTile; }
constexpr std::int64_t log_bytes(std::int64_t n, int bits) { return bits == 8 ? n : (n + 3) / 4 * 5; }
// The tiles along rows that come in runs (tensors stacked in a slab, groups of a product): tiles restart at each run.
// parts = rows of each tensor, their sum `rows`, or empty: one run. offsets: as for grouped products.
std::int64_t row_tiles(std::int64_t rows, std::span<const std::int64_t> parts);
std::int64_t row_tile_of(std::int64_t row, std::span<const std::int64_t> parts);  // the tile that a row lies in
std::int64_t row_tiles(std::span<const std::int64_t> offsets);

// Activations or their gradients as codes (e4m3 or e5m2) with f32 scales, in one of two tilings:
//   1×128: tiles along a row, scales [rows, tiles_of(cols)];
//   128×1: tiles along a column, restarting at every offset, scales [row_tiles(offsets), cols].
struct ScaledMat {
  ConstMat codes, scales;
};
struct ScaledBuffer {  // one to write
  Mat codes, scales;
  operator ScaledMat() const { return {codes, scales}; }
};

struct Quantization {
  DType format = DType::e4m3;  // or e5m2
  bool power_of_two = false;   // scales
};

// How the products of codes are summed [V3 §3.3.2]. Only the reference table knows bits other than 0.
struct Accumulation {
  int bits = 0;         // 0: FP32; otherwise fixed point of so many bits, as a tensor core's (numerics/narrow_accumulate.h): 14
  bool promote = true;  // with bits: whether partial sums pass to FP32 at every tile, or the narrow sum runs on to the end
};

// Weights of one linear layer, or of the experts of a layer stacked (G of them): w_GNK.
struct WeightView {
  const void* data = nullptr;  // row-major [groups · rows, cols]
  DType dtype = DType::f32;
  std::int64_t groups = 1, rows = 0 /* N */, cols = 0 /* K */;
  // Of e4m3 and e5m2 only: f32 scales of 128×128 blocks, [groups · row_tiles(rows, parts), tiles_of(cols)], and the rows of the
  // tensors stacked in a group, since blocks restart with each ({F, F} for gate above up; empty: one tensor).
  ConstMat scales = {};
  std::span<const std::int64_t> parts = {};
  bool packed = false;  // data is pack_weights' of the same table; of use to the forward products alone

  ConstMat group(std::int64_t g) const {
    return {static_cast<const std::byte*>(data) + g * rows * cols * core::size_of(dtype), dtype, rows, cols, cols};
  }
};

// Rows offsets[g] … offsets[g+1]-1 belong to group g; offsets has groups+1 entries, ascending, empty groups allowed.
using Offsets = std::span<const std::int64_t>;

// A run of consecutive positions of one sequence.
struct Segment {
  std::int64_t q_row = 0;           // its first row in q, o, lse
  std::int64_t rows = 0;            // how many queries
  std::int64_t first_position = 0;  // position of the first query
  std::int64_t kv_row = 0;          // the row of kv and k_pe that holds position 0; keys 0 … first_position+rows-1 are there
};

// Positions of a page of the latent cache; attention joins so many keys at a time.
constexpr std::int64_t kPage = 64;

// A run of consecutive positions of one sequence whose keys lie in pages of a latent cache.
struct PagedSegment {
  std::int64_t q_row = 0;               // its first row in q, o
  std::int64_t rows = 0;                // how many queries
  std::int64_t first_position = 0;      // position of the first query; keys 0 … first_position+rows-1 are there
  const std::int32_t* pages = nullptr;  // position j is row pages[j / kPage] · kPage + j % kPage of the cache
};

struct AttentionShape {
  std::int64_t heads = 0, nope = 0, rope = 0, value = 0;
  double scale = 1;  // multiplies the scores
};

enum class Scoring { sigmoid, softmax };
enum class GroupScore { top2_sum, max };  // noaux_tc (V3), group_limited_greedy (V2)

struct GateShape {
  std::int64_t experts = 0, chosen = 0;
  std::int64_t groups = 1, groups_chosen = 1;
  Scoring scoring = Scoring::sigmoid;
  GroupScore group_score = GroupScore::top2_sum;
  bool normalise = true;  // norm_topk_prob
  double scale = 1;       // routed_scaling_factor
};

struct AdamW {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  std::int64_t step = 1;      // from 1, for the bias corrections
  double gradient_scale = 1;  // multiplies the gradient (1 / tokens, clipping)
};

// Every function: `ctx` first, inputs, options, outputs. Sizes come from the views.
struct Table {
  std::string_view name;  // "reference", "avx512bf16", …

  // ---- linear layers (linear.cpp). Dense: one group and offsets {0, T}.
  // y_SN = [addend_SN +] x_SK · w[group]_NKᵀ. y is storage or accumulator type; addend (same type as y) may be y itself or null.
  void (*linear_forward)(const Context&, ConstMat x_SK, const WeightView& w_GNK, Offsets, ConstMat addend_SN, Mat y_SN);
  // The same by slices of columns: y_T·[g · y_step … +N] = x_T·[g · x_step … +K] · w[g]_NKᵀ for each group g (the heads of absorbed MLA).
  void (*linear_slices)(const Context&, ConstMat x, std::int64_t x_step, const WeightView& w_GNK, Mat y, std::int64_t y_step);
  // dx_SK = [addend_SK +] dy_SN · w[group]_NK.
  void (*linear_backward_input)(const Context&, ConstMat dy_SN, const WeightView& w_GNK, Offsets, ConstMat addend_SK, Mat dx_SK);
  // dw[group]_NK += dy_SNᵀ · x_SK over the group's rows; dw_GNK is one [G·N, K] matrix of accumulator type.
  void (*linear_backward_weight)(const Context&, ConstMat dy_SN, ConstMat x_SK, Offsets, Mat dw_GNK);

  // ---- weights in a table's own order (packed_weights.cpp), for those that are read often and never change. A product of packed
  // weights has the bits of the same product of the row-major ones. Scales stay as they are.
  std::int64_t (*packed_bytes)(const Context&, const WeightView& w_GNK);
  void (*pack_weights)(const Context&, const WeightView& w_GNK, void* to /* 64-byte aligned, packed_bytes */);

  // ---- tiles and codes (quantize.cpp). Scales and codes are the same bits in every table: numerics/tile_scale.h says how they are
  // computed, numerics/e4m3.h and its neighbours how a number is rounded. x is bf16 or f32. An element that is NaN or infinite does
  // not touch its tile's scale and becomes the NaN code of its sign; the functions return how many tiles held one.
  // 1×128 tiles: x_TK → codes_TK, scales [T, tiles_of(K)].
  std::int64_t (*quantize_rows)(const Context&, ConstMat x_TK, const Quantization&, const ScaledBuffer& y_TK);
  // 128×1 tiles that restart at every offset: x_TK → codes_TK, scales [row_tiles(offsets), K]. x is plain (scales null; codes holds
  // bf16 or f32) or has 1×128 tiles, whose elements are formed in f32 and coded anew. Rows outside the offsets are not written.
  std::int64_t (*quantize_columns)(const Context&, const ScaledMat& x_TK, Offsets, const Quantization&, const ScaledBuffer& y_TK);
  // 128×128 blocks of each tensor: w [G·N, K] → codes [G·N, K], scales [G · row_tiles(N, parts), tiles_of(K)].
  std::int64_t (*quantize_blocks)(const Context&, ConstMat w_GNK, std::int64_t groups, std::span<const std::int64_t> parts,
                                  const Quantization&, const ScaledBuffer& y_GNK);
  // Elements of 1×128 tiles, and of blocks: number · scale in f32, then rounded to y's type (bf16 or f32).
  void (*dequantize_rows)(const Context&, const ScaledMat& x_TK, Mat y_TK);
  void (*dequantize_blocks)(const Context&, const WeightView& w_GNK, Mat y_GNK);
  // E5M6 with power-of-two scales of 1×128 tiles: codes (u8) [T, 3 · ceil(K/2)], two in three bytes (numerics/e5m6.h), scales
  // [T, tiles_of(K)]. Returns as above; decoding as above.
  std::int64_t (*encode_e5m6)(const Context&, ConstMat x_TK, const ScaledBuffer& y_TK);
  void (*decode_e5m6)(const Context&, const ScaledMat& x_TK, Mat y_TK);
  // LogFMT of 8 or 10 bits on the grids of 1×128 tiles (numerics/logfmt.h): codes (u8) [T, log_bytes(K, bits)], of 10 bits four in
  // five bytes; scales [T, 2 · tiles_of(K)], each tile's least logarithm and step. A tile that holds NaN or an infinity is counted
  // and decodes to NaN where it is not zero.
  std::int64_t (*encode_logfmt)(const Context&, ConstMat x_TK, int bits, const ScaledBuffer& y_TK);
  void (*decode_logfmt)(const Context&, const ScaledMat& x_TK, int bits, Mat y_TK);

  // ---- the same three products of codes (scaled_linear.cpp). Along the sum, the terms code · code of a run, which lies in one tile
  // of either operand (128 long, or less), are added in FP32; the run's sum times (scale · scale) is added to the total, runs in
  // ascending order. Outputs and addends as above; e5m2 and e4m3 may meet.
  // x has 1×128 tiles along K, w its blocks.
  void (*scaled_forward)(const Context&, const ScaledMat& x_SK, const WeightView& w_GNK, Offsets, ConstMat addend_SN, const Accumulation&,
                         Mat y_SN);
  // dy has 1×128 tiles along N; the blocks of w may restart within one (parts).
  void (*scaled_backward_input)(const Context&, const ScaledMat& dy_SN, const WeightView& w_GNK, Offsets, ConstMat addend_SK,
                                const Accumulation&, Mat dx_SK);
  // dy and x have 128×1 tiles made with these offsets. dw_GNK += …
  void (*scaled_backward_weight)(const Context&, const ScaledMat& dy_SN, const ScaledMat& x_SK, Offsets, const Accumulation&, Mat dw_GNK);

  // ---- attention (attention.cpp), plain multi-head form, causal. Per head q is [nope | rope], kv is [k_nope | v]; k_pe is
  // shared by the heads. Keys are combined in blocks fixed at absolute positions, in order (online softmax).
  // q_T(H·(N+R)), kv_T(H·(N+V)), k_pe_TR → o_T(H·V), lse_TH (accumulator type: log of the sum of exp of scaled scores).
  void (*attention_forward)(const Context&, ConstMat q, ConstMat kv, ConstMat k_pe, std::span<const Segment>, const AttentionShape&, Mat o,
                            Mat lse);
  // Only for segments that hold all their keys (first_position 0) and do not share them. Writes every row the segments name.
  void (*attention_backward)(const Context&, ConstMat q, ConstMat kv, ConstMat k_pe, ConstMat o, ConstMat lse, ConstMat d_o,
                             std::span<const Segment>, const AttentionShape&, Mat dq, Mat dkv, Mat dk_pe);

  // ---- attention over a latent cache (latent_attention.cpp): the absorbed form of MLA, causal [V2 §2.1.2]. For every head a position's
  // key is its row [c_kv | k_pe] of cache_P(C+R), its value the first C of it. Head h asks with [q_latent | the rope part of q], where
  // q_latent_T(H·C) = q_nope · W_UK and q_T(H·(N+R)). o_T(H·C). A softmax over each span of eight pages, which begin at
  // absolute positions, and spans in order (online softmax). shape.value is not read.
  void (*latent_attention)(const Context&, ConstMat q_latent, ConstMat q, ConstMat cache, std::span<const PagedSegment>,
                           const AttentionShape&, Mat o);

  // ---- norms (norm.cpp). y = w · round(x · rsqrt(mean x² + eps)), rounded to storage in between as Hugging Face does.
  void (*rms_norm_forward)(const Context&, ConstMat x_TD, ConstMat w_1D, double eps, Mat y_TD);
  void (*rms_norm_backward_input)(const Context&, ConstMat dy_TD, ConstMat x_TD, ConstMat w_1D, double eps, ConstMat addend_TD, Mat dx_TD);
  void (*rms_norm_backward_weight)(const Context&, ConstMat dy_TD, ConstMat x_TD, double eps, Mat dw_1D);  // += , accumulator type

  // ---- rope (rope.cpp). In place, on `heads` slices of R columns: slice h starts at column h · head_stride of x. Pairs are
  // adjacent (2i, 2i+1), as in the published checkpoints. cos_sin_PR row p = cos, sin, cos, sin … of position p, accumulator
  // type. inverse rotates back (the backward function).
  void (*rope)(const Context&, Mat x, std::int64_t heads, std::int64_t head_stride, ConstMat cos_sin_PR,
               std::span<const std::int32_t> positions_T, bool inverse);

  // ---- SwiGLU (swiglu.cpp). gu_S(2F) = [gate | up]; a_SF = silu(gate) · up · weight_S (accumulator type, or null: 1).
  void (*swiglu_forward)(const Context&, ConstMat gu_S2F, ConstMat weight_1S, Mat a_SF);
  // dgu_S(2F), and dweight_1S (accumulator type, or null) = Σ_f da · silu(gate) · up.
  void (*swiglu_backward)(const Context&, ConstMat da_SF, ConstMat gu_S2F, ConstMat weight_1S, Mat dgu_S2F, Mat dweight_1S);

  // ---- gate (gate.cpp). [V3 Eq. 12–16] logits_TE accumulator type; bias_1E f32 or null, used only to choose. Writes the
  // chosen experts of each token in ascending order, ids_TK (i32), and their weights_TK (accumulator type). Groups that are
  // not chosen are masked by −inf. Ties go to the lower expert id. NaN logits sort last and never crash.
  void (*gate_forward)(const Context&, ConstMat logits_TE, ConstMat bias_1E, const GateShape&, Mat ids_TK, Mat weights_TK);
  // The sequence-wise balance loss [V3 Eq. 17–20] of rows that are `sequences` equal runs: returns Σ over sequences of
  // Σ_i f_i P_i (not yet times alpha), and f (accumulator type) [sequences, E]; f counts the top-K of s without bias.
  double (*balance_forward)(const Context&, ConstMat logits_TE, const GateShape&, std::int64_t sequences, Mat f);
  // dlogits_TE (storage type) from dweights_TK and from balance_scale · Σ f_i P_i (f null: without).
  void (*gate_backward)(const Context&, ConstMat logits_TE, ConstMat ids_TK, ConstMat dweights_TK, const GateShape&, std::int64_t sequences,
                        ConstMat f, double balance_scale, Mat dlogits_TE);

  // ---- permutation (permute.cpp).
  // x_SD[s] = x_TD[slot_token_S[s]].
  void (*gather_rows)(const Context&, ConstMat x_TD, std::span<const std::int32_t> slot_token_S, Mat x_SD);
  // y_TD = [addend +] sum over routing groups in order of round(Σ of the group's experts in order of y_SD[token_slots]). The
  // K slots of a token stand in ascending expert order; ids_TK tells the group: id / experts_per_group.
  void (*combine_rows)(const Context&, ConstMat y_SD, ConstMat ids_TK, ConstMat token_slots_TK /* i32 */, std::int64_t experts_per_group,
                       ConstMat addend_TD, Mat y_TD);

  // ---- embedding (embedding.cpp).
  void (*embedding_forward)(const Context&, ConstMat table_WD, std::span<const std::int32_t> ids_T, Mat x_TD);
  void (*embedding_backward)(const Context&, ConstMat dx_TD, std::span<const std::int32_t> ids_T, Mat dtable_WD);  // += , accumulator type

  // ---- loss (loss.cpp). target −1 is skipped (loss 0, no gradient). loss_1T (accumulator type) = −log softmax(logits)[target];
  // best_1T (i32, or null) = argmax, lowest id on a tie; dlogits_TW (storage type, or null) = scale · (softmax − onehot).
  void (*cross_entropy)(const Context&, ConstMat logits_TW /* accumulator type */, std::span<const std::int32_t> targets_T, double scale,
                        Mat loss_1T, Mat best_1T, Mat dlogits_TW);

  // ---- optimiser (optimizer.cpp), over flat arrays (1 × n).
  // master (accumulator type) is updated; weight (storage type) = round(master); m and v are bf16 or f32 (decoupled decay).
  void (*adamw)(const Context&, ConstMat gradient, const AdamW&, Mat master, Mat m, Mat v, Mat weight);
  // Sum of squares in double over fixed chunks of 65,536 elements, chunks added in order.
  double (*sum_squares)(const Context&, ConstMat x);

  // ---- plain helpers (elementwise.cpp).
  void (*add)(const Context&, ConstMat a, ConstMat b, Mat y);  // y = a + b
  void (*convert)(const Context&, ConstMat x, Mat y);          // between any two of bf16, f32, f64
};

// The plain loops in double that a reader trusts at sight.
const Table& reference();

// The fastest table this machine runs, or the one named in FINBACK_ISA (reference, portable, avx2, avx512, avx512bf16, amx); throws
// Error(usage) for a name that is unknown or that this machine cannot run.
const Table& best();
const Table& by_name(std::string_view name);
std::vector<std::string_view> runnable();  // names, slowest first

// Which functions of `table` are its own and which it took from a slower one: one line each "linear_forward avx512bf16".
std::string coverage(const Table& table);

}  // namespace finback::kernels
