#include "model/params.h"

#include "core/rng.h"

#include <algorithm>
#include <numeric>

namespace finback::model {
namespace {

// Appends slabs and the parameters in them. Names are Hugging Face's (modeling_deepseek_v3; V3's README_WEIGHTS for MTP).
class Lister {
 public:
  explicit Lister(const ModelConfig& config) : c_(config) {}

  ParameterList list() {
    one("model.embed_tokens.weight", Role::embedding, -1, c_.vocab_size, c_.hidden_size);
    for (std::int64_t l = 0; l < c_.num_hidden_layers; ++l) block(l);
    norm("model.norm.weight", -1, c_.hidden_size);
    one("lm_head.weight", Role::head, -1, c_.vocab_size, c_.hidden_size);
    for (std::int64_t l = c_.num_hidden_layers; l < c_.blocks(); ++l) mtp(l);
    for (const Parameter& p : out_.parameters)
      if (Slab& s = out_.slabs[static_cast<std::size_t>(p.slab)]; p.fp8 && p.row < s.rows) s.parts.push_back(p.rows);
    return std::move(out_);
  }

 private:
  struct Piece {
    std::string name;
    std::int64_t rows;
  };

  int slab(const std::string& name, Role role, std::int64_t layer, std::int64_t groups, std::int64_t rows, std::int64_t cols) {
    const bool matrix = role != Role::norm && role != Role::gate_bias;
    out_.slabs.push_back({.name = name,
                          .role = role,
                          .groups = groups,
                          .rows = rows,
                          .cols = cols,
                          .layer = layer,
                          .weight_decay = matrix,
                          .trained = role != Role::gate_bias,
                          .parts = {}});
    return static_cast<int>(out_.slabs.size()) - 1;
  }

  // Parameters one above the other in a slab of one group.
  void stacked(Role role, std::int64_t layer, const std::vector<Piece>& pieces, std::int64_t cols) {
    std::int64_t rows = 0;
    for (const Piece& p : pieces) rows += p.rows;
    const int s = slab(pieces.front().name, role, layer, 1, rows, cols);
    std::int64_t row = 0;
    for (const Piece& p : pieces) {
      out_.parameters.push_back({.name = p.name,
                                 .shape = {p.rows, cols},
                                 .slab = s,
                                 .row = row,
                                 .rows = p.rows,
                                 .cols = cols,
                                 .fp8 = role == Role::linear || role == Role::expert});
      row += p.rows;
    }
  }

  void one(const std::string& name, Role role, std::int64_t layer, std::int64_t rows, std::int64_t cols) {
    stacked(role, layer, {{name, rows}}, cols);
  }

  void norm(const std::string& name, std::int64_t layer, std::int64_t n) {
    const int s = slab(name, Role::norm, layer, 1, 1, n);
    out_.parameters.push_back({.name = name, .shape = {n}, .slab = s, .rows = 1, .cols = n, .init = Init::ones});
  }

  // gate_proj above up_proj, so that one product makes both; then down_proj.
  void swiglu(const std::string& prefix, std::int64_t layer, std::int64_t width) {
    stacked(Role::linear, layer, {{prefix + "gate_proj.weight", width}, {prefix + "up_proj.weight", width}}, c_.hidden_size);
    one(prefix + "down_proj.weight", Role::linear, layer, c_.hidden_size, width);
  }

  void experts(const std::string& prefix, std::int64_t layer) {
    const std::int64_t E = c_.n_routed_experts, F = c_.moe_intermediate_size, D = c_.hidden_size;
    const int gate_up = slab(prefix + "0.gate_proj.weight", Role::expert, layer, E, 2 * F, D);
    const int down = slab(prefix + "0.down_proj.weight", Role::expert, layer, E, D, F);
    for (std::int64_t e = 0; e < E; ++e) {
      const std::string expert = fmt::format("{}{}.", prefix, e);
      const auto piece = [&](const char* name, int slab, std::int64_t row, std::int64_t rows, std::int64_t cols) {
        out_.parameters.push_back(
            {.name = expert + name, .shape = {rows, cols}, .slab = slab, .row = row, .rows = rows, .cols = cols, .fp8 = true});
      };
      piece("gate_proj.weight", gate_up, e * 2 * F, F, D);
      piece("up_proj.weight", gate_up, e * 2 * F + F, F, D);
      piece("down_proj.weight", down, e * D, D, F);
    }
  }

  void block(std::int64_t l) {
    const std::string layer = fmt::format("model.layers.{}.", l), attention = layer + "self_attn.", mlp = layer + "mlp.";
    const std::int64_t D = c_.hidden_size, H = c_.num_attention_heads, C = c_.kv_lora_rank;
    norm(layer + "input_layernorm.weight", l, D);
    const Piece kv_a{attention + "kv_a_proj_with_mqa.weight", C + c_.qk_rope_head_dim};
    if (c_.q_lora_rank > 0) {
      stacked(Role::linear, l, {{attention + "q_a_proj.weight", c_.q_lora_rank}, kv_a}, D);
      norm(attention + "q_a_layernorm.weight", l, c_.q_lora_rank);
      one(attention + "q_b_proj.weight", Role::linear, l, H * c_.qk_head_dim(), c_.q_lora_rank);
    } else {
      stacked(Role::linear, l, {{attention + "q_proj.weight", H * c_.qk_head_dim()}, kv_a}, D);
    }
    norm(attention + "kv_a_layernorm.weight", l, C);
    one(attention + "kv_b_proj.weight", Role::linear, l, H * (c_.qk_nope_head_dim + c_.v_head_dim), C);
    one(attention + "o_proj.weight", Role::linear, l, D, H * c_.v_head_dim);
    norm(layer + "post_attention_layernorm.weight", l, D);
    if (!c_.is_moe_layer(l)) return swiglu(mlp, l, c_.intermediate_size);
    one(mlp + "gate.weight", Role::gate, l, c_.n_routed_experts, D);
    if (c_.has_gate_bias()) {
      const int s = slab(mlp + "gate.e_score_correction_bias", Role::gate_bias, l, 1, 1, c_.n_routed_experts);
      out_.parameters.push_back({.name = mlp + "gate.e_score_correction_bias",
                                 .shape = {c_.n_routed_experts},
                                 .slab = s,
                                 .rows = 1,
                                 .cols = c_.n_routed_experts,
                                 .init = Init::zeros,
                                 .keep_f32 = true});
    }
    experts(mlp + "experts.", l);
    if (c_.n_shared_experts > 0) swiglu(mlp + "shared_experts.", l, c_.n_shared_experts * c_.moe_intermediate_size);
  }

  void mtp(std::int64_t l) {
    const std::string layer = fmt::format("model.layers.{}.", l);
    const std::int64_t D = c_.hidden_size;
    out_.duplicates.push_back({layer + "embed_tokens.weight", "model.embed_tokens.weight"});
    norm(layer + "enorm.weight", l, D);
    norm(layer + "hnorm.weight", l, D);
    one(layer + "eh_proj.weight", Role::linear, l, D, 2 * D);
    out_.parameters.back().fp8 = false;
    block(l);
    norm(layer + "shared_head.norm.weight", l, D);
    out_.duplicates.push_back({layer + "shared_head.head.weight", "lm_head.weight"});
  }

  const ModelConfig& c_;
  ParameterList out_;
};

std::uint32_t name_hash(std::string_view name) {  // FNV-1a: a stream of random numbers of its own for every parameter
  std::uint32_t h = 2166136261u;
  for (const char ch : name) h = (h ^ static_cast<unsigned char>(ch)) * 16777619u;
  return h;
}

}  // namespace

std::int64_t ParameterList::total() const {
  std::int64_t n = 0;
  for (const Parameter& p : parameters) n += p.size();
  return n;
}

ParameterList list_parameters(const ModelConfig& config) { return Lister(config).list(); }

SlabBuffers take_slabs(core::Arena& arena, const ParameterList& list, core::DType dtype, bool trained_only) {
  SlabBuffers out;
  for (const Slab& s : list.slabs) {
    const auto type = s.role == Role::gate_bias && dtype == core::DType::bf16 ? core::DType::f32 : dtype;
    const bool wanted = s.trained || !trained_only;
    out.slabs.push_back(wanted ? arena.take_mat(type, s.groups * s.rows, s.cols) : core::Mat{});
  }
  return out;
}

SlabBuffers take_weights(core::Arena& arena, const ParameterList& list, const Precision& precision) {
  if (!precision.fp8) return take_slabs(arena, list, precision.storage);
  SlabBuffers out;
  for (const Slab& s : list.slabs) {
    const auto type = s.fp8() ? core::DType::e4m3 : s.role == Role::gate_bias ? core::DType::f32 : precision.storage;
    out.slabs.push_back(arena.take_mat(type, s.groups * s.rows, s.cols));
    out.scales.push_back(s.fp8()
                             ? arena.take_mat(core::DType::f32, s.groups * kernels::row_tiles(s.rows, s.parts), kernels::tiles_of(s.cols))
                             : core::Mat{});
    out.parts.push_back(s.parts);
  }
  return out;
}

WeightRows weight_rows(const SlabBuffers& weights, std::size_t slab, std::int64_t begin, std::int64_t end) {
  WeightRows rows{weights.slabs[slab].row_range(begin, end - begin), {}, {}};
  if (rows.numbers.dtype != core::DType::e4m3) return rows;
  const std::vector<std::int64_t>& parts = weights.parts[slab];
  std::int64_t part_begin = 0, first = 0, blocks = 0;
  for (std::size_t i = 0; part_begin < end; part_begin += parts[i], i = (i + 1) % parts.size()) {
    const std::int64_t part_end = part_begin + parts[i], from = std::max(begin, part_begin), until = std::min(end, part_end);
    first += kernels::tiles_of(std::min(parts[i], std::max<std::int64_t>(0, begin - part_begin)));
    if (from >= until) continue;
    FB_CHECK((from - part_begin) % 128 == 0 && ((until - part_begin) % 128 == 0 || until == part_end), "rows {} to {}", begin, end);
    blocks += kernels::tiles_of(until - from);
    rows.parts.push_back(until - from);
  }
  rows.scales = weights.scales[slab].row_range(first, blocks);
  return rows;
}

std::int64_t round_weights(const kernels::Context& ctx, core::ConstMat master, const Precision& precision, const WeightRows& rows) {
  if (rows.numbers.data == master.data || master.rows == 0) return 0;
  if (rows.numbers.dtype != core::DType::e4m3) {
    ctx.kernels.convert(ctx, master, rows.numbers);
    return 0;
  }
  const kernels::Quantization how{core::DType::e4m3, precision.fp8->power_of_two_scales};
  return ctx.kernels.quantize_blocks(ctx, master, 1, rows.parts, how, {rows.numbers, rows.scales});
}

namespace {

// Embeddings are looked up row by row, norms and the gate's bias read as they are.
bool is_multiplied(Role role) { return role == Role::linear || role == Role::gate || role == Role::expert || role == Role::head; }

}  // namespace

std::int64_t packing_bytes(const ParameterList& list, core::DType dtype) {
  std::int64_t most = 0;
  for (const Slab& s : list.slabs)
    if (is_multiplied(s.role)) most = std::max(most, s.rows * s.cols * core::size_of(dtype));
  return most;
}

void pack_linear_weights(const kernels::Context& ctx, const ParameterList& list, SlabBuffers& weights) {
  weights.packed.assign(list.slabs.size(), false);
  for (std::size_t i = 0; i < list.slabs.size(); ++i) {
    const Slab& s = list.slabs[i];
    const core::Mat w = weights.slabs[i];
    const std::int64_t bytes = s.rows * s.cols * core::size_of(w.dtype);
    kernels::WeightView group{w.data, w.dtype, 1, s.rows, s.cols};
    if (!is_multiplied(s.role) || ctx.kernels.packed_bytes(ctx, group) != bytes) continue;
    const core::ArenaScope scope(ctx.scratch);
    void* packed = ctx.scratch.take(bytes);
    for (std::int64_t g = 0; g < s.groups; ++g) {
      auto* place = static_cast<std::byte*>(w.data) + g * bytes;
      group.data = place;
      ctx.kernels.pack_weights(ctx, group, packed);
      std::memcpy(place, packed, static_cast<std::size_t>(bytes));
    }
    weights.packed[i] = true;
  }
}

void initial_values(const ModelConfig& config, const Parameter& p, std::uint64_t seed, std::int64_t first, const core::Mat& out) {
  const core::Rng rng(seed, core::Stream::init, name_hash(p.name));
  for (std::int64_t i = 0; i < out.size(); ++i) {
    const double value = p.init == Init::normal ? config.initializer_range * rng.normal(static_cast<std::uint64_t>(first + i))
                         : p.init == Init::ones ? 1.0
                                                : 0.0;
    if (out.dtype == core::DType::f64) out.row<double>(0)[i] = value;
    else out.row<float>(0)[i] = static_cast<float>(value);
  }
}

void initialise(const ModelConfig& config, const ParameterList& list, std::uint64_t seed, core::Team& team, const SlabBuffers& master) {
  constexpr std::int64_t kRun = 1 << 14;  // elements a task
  for (const Parameter& p : list.parameters) {
    const core::Mat m = master.of(p);
    if (!m) continue;
    core::parallel_for(team, (p.size() + kRun - 1) / kRun, [&](std::int64_t task) {
      const std::int64_t first = task * kRun, n = std::min(kRun, p.size() - first);
      initial_values(config, p, seed, p.first_row * p.cols + first,
                     core::mat(static_cast<std::byte*>(m.data) + first * size_of(m.dtype), m.dtype, 1, n));
    });
  }
}

}  // namespace finback::model
