// The entry points of the files in this folder: each puts its functions into a table. A new file adds its line here and its
// call in kernels/table.cpp.
#pragma once

namespace finback::kernels {
struct Table;
struct Probe;
}  // namespace finback::kernels

#define FB_ENTRIES(isa)              \
  namespace finback::kernels::isa {  \
  void add_linear(Table&);           \
  void add_quantize(Table&);         \
  void add_e5m6(Table&);             \
  void add_logfmt(Table&);           \
  void add_scaled_linear(Table&);    \
  void add_packed_weights(Table&);   \
  void add_attention(Table&);        \
  void add_latent_attention(Table&); \
  void add_norm(Table&);             \
  void add_rope(Table&);             \
  void add_swiglu(Table&);           \
  void add_gate(Table&);             \
  void add_permute(Table&);          \
  void add_embedding(Table&);        \
  void add_loss(Table&);             \
  void add_optimizer(Table&);        \
  void add_elementwise(Table&);      \
  void add_probe(Probe&);            \
  }
FB_ENTRIES(reference_kernels)
FB_ENTRIES(portable)
FB_ENTRIES(avx2)
FB_ENTRIES(avx512)
FB_ENTRIES(avx512bf16)
FB_ENTRIES(amx)
#undef FB_ENTRIES
