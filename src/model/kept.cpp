#include "model/kept.h"

#include <fmt/format.h>

namespace finback::model {
namespace {

using core::DType;
using Storage = ActivationStorage;

class Lister {
 public:
  Lister(const ModelConfig& config, const Precision& precision, Storage storage) : m_(config), p_(precision), storage_(storage) {}

  KeptList dense(std::int64_t layers) {
    attention();
    fed_input("input of gate and up", m_.hidden_size, /*numbers_too=*/false);
    swiglu("", m_.intermediate_size, 1);
    return {"dense layer", layers, std::move(tensors_)};
  }

  KeptList moe(std::int64_t layers) {
    const std::int64_t D = m_.hidden_size, F = m_.moe_intermediate_size, K = m_.num_experts_per_tok;
    attention();
    add("chosen experts", DType::i32, K);
    add("their weights", p_.accumulator, K);
    if (full()) {
      add("slots: of tokens, their weights, their tokens", DType::i32, 2 * K);
      tensors_.back().bytes_per_token += K * core::size_of(p_.accumulator);
      add("logits of the gate", p_.accumulator, m_.n_routed_experts);
    }
    fed_input("input of gate, experts and shared experts", D, /*numbers_too=*/true);
    if (full()) p_.fp8 ? codes("the same, dispatched", D, K) : add("the same, dispatched", p_.storage, K * D);
    swiglu(" of the chosen experts", F, K);
    if (m_.n_shared_experts > 0) swiglu(" of the shared experts", m_.n_shared_experts * F, 1);
    return {"MoE layer", layers, std::move(tensors_)};
  }

  KeptList between() {
    const std::int64_t D = m_.hidden_size, mtp = m_.num_nextn_predict_layers;
    add("outputs of the last layer and of MTP modules", p_.storage, (1 + mtp) * D);
    if (mtp > 0) add("tokens of MTP modules", DType::i32, 2 * mtp);
    if (full()) {
      add("inputs of the heads", p_.storage, (1 + mtp) * D);
      if (mtp > 0) add("embedding and joined input of MTP modules", p_.storage, mtp * 3 * D);
    }
    return {"between layers", 1, std::move(tensors_)};
  }

 private:
  bool full() const { return storage_ == Storage::full; }
  bool keeps_codes() const { return storage_ == Storage::fp8 || storage_ == Storage::paper; }

  void add(std::string name, DType type, std::int64_t columns) {
    tensors_.push_back({std::move(name), core::name_of(type), columns * core::size_of(type)});
  }
  // rows of e4m3 codes a token, with their scales.
  void codes(std::string name, std::int64_t columns, std::int64_t rows = 1) {
    tensors_.push_back({std::move(name), "e4m3", rows * (columns + 4 * kernels::tiles_of(columns))});
  }

  // Made by a norm: made again, or kept in the form that is read.
  void fed_input(const char* name, std::int64_t columns, bool numbers_too) {
    if (!full()) return;
    if (!p_.fp8 || numbers_too) add(name, p_.storage, columns);
    if (p_.fp8) codes(name, columns);
  }

  void attention() {
    const std::int64_t H = m_.num_attention_heads, O = H * m_.v_head_dim, D = m_.hidden_size;
    const std::int64_t q = H * m_.qk_head_dim(), q_a = m_.q_lora_rank > 0 ? m_.q_lora_rank : q;
    add("input of the layer, or output of the one before", p_.storage, D);
    fed_input("input of q_a and kv_a", D, false);
    add("latents of queries, keys and values; rope key", p_.storage, q_a + m_.kv_lora_rank + m_.qk_rope_head_dim);
    if (m_.q_lora_rank > 0) fed_input("input of q_b", m_.q_lora_rank, false);
    fed_input("input of kv_b", m_.kv_lora_rank, false);
    if (full()) {
      if (m_.q_lora_rank > 0) add("queries", p_.storage, q);
      add("keys and values", p_.storage, H * (m_.qk_nope_head_dim + m_.v_head_dim));
    }
    if (!keeps_codes()) add("input of o", p_.storage, O);
    if (p_.fp8 && (full() || storage_ == Storage::fp8)) codes("input of o", O);
    if (storage_ == Storage::paper) tensors_.push_back({"input of o", "e5m6", 3 * ((O + 1) / 2) + 4 * kernels::tiles_of(O)});
    add("log of attention's sums", p_.accumulator, H);
    add("residual between attention and feed-forward", p_.storage, D);
  }

  void swiglu(const std::string& of, std::int64_t width, std::int64_t rows) {
    const std::string in = "input of SwiGLU" + of;
    keeps_codes() ? codes(in, 2 * width, rows) : add(in, p_.storage, rows * 2 * width);
    if (!full()) return;
    const std::string out = "input of down" + of;
    p_.fp8 ? codes(out, width, rows) : add(out, p_.storage, rows * width);
  }

  const ModelConfig& m_;
  const Precision& p_;
  const Storage storage_;
  std::vector<KeptTensor> tensors_;
};

}  // namespace

std::int64_t KeptList::bytes_per_token() const {
  std::int64_t sum = 0;
  for (const KeptTensor& t : tensors) sum += t.bytes_per_token;
  return sum;
}

std::vector<KeptList> kept_tensors(const ModelConfig& m, const Precision& precision, Storage storage) {
  std::int64_t moe = 0;
  for (std::int64_t l = 0; l < m.blocks(); ++l) moe += m.is_moe_layer(l);
  std::vector<KeptList> lists;
  if (moe < m.blocks()) lists.push_back(Lister(m, precision, storage).dense(m.blocks() - moe));
  if (moe > 0) lists.push_back(Lister(m, precision, storage).moe(moe));
  lists.push_back(Lister(m, precision, storage).between());
  return lists;
}

std::int64_t kept_bytes_per_token(const ModelConfig& m, const Precision& precision, Storage storage) {
  std::int64_t sum = 0;
  for (const KeptList& list : kept_tensors(m, precision, storage)) sum += list.layers * list.bytes_per_token();
  return sum;
}

std::string describe_kept(const ModelConfig& m, const Precision& precision, Storage storage) {
  std::string out;
  for (const KeptList& list : kept_tensors(m, precision, storage)) {
    out += fmt::format("  {}{}: {} bytes a token\n", list.where, list.layers > 1 ? fmt::format(", each of {}", list.layers) : "",
                       list.bytes_per_token());
    for (const KeptTensor& t : list.tensors) out += fmt::format("    {:>7}  {:<5} {}\n", t.bytes_per_token, t.format, t.name);
  }
  return out + fmt::format("  all layers: {} bytes a token\n", kept_bytes_per_token(m, precision, storage));
}

}  // namespace finback::model
