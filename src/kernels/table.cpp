// Which table this machine runs. A backend is a table copied from a slower one and overwritten where it has its own functions.
#include "core/error.h"
#include "kernels/cpu/entries.h"
#include "kernels/functions.h"
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <array>
#include <cstdlib>
#include <iterator>

namespace finback::kernels {
namespace {

// The instruction sets that finback knows, slowest first.
struct Backend {
  std::string_view name;
  bool (*runs_here)();
  void (*fill)(Table&);
};

void fill_reference(Table& t) {
  using namespace reference_kernels;
  add_linear(t);
  add_quantize(t);
  add_e5m6(t);
  add_logfmt(t);
  add_scaled_linear(t);
  add_packed_weights(t);
  add_attention(t);
  add_latent_attention(t);
  add_norm(t);
  add_rope(t);
  add_swiglu(t);
  add_gate(t);
  add_permute(t);
  add_embedding(t);
  add_loss(t);
  add_optimizer(t);
  add_elementwise(t);
}

#define FB_FILL(isa)              \
  [](Table& t) {                  \
    isa::add_linear(t);           \
    isa::add_quantize(t);         \
    isa::add_e5m6(t);             \
    isa::add_logfmt(t);           \
    isa::add_scaled_linear(t);    \
    isa::add_packed_weights(t);   \
    isa::add_attention(t);        \
    isa::add_latent_attention(t); \
    isa::add_norm(t);             \
    isa::add_rope(t);             \
    isa::add_swiglu(t);           \
    isa::add_gate(t);             \
    isa::add_permute(t);          \
    isa::add_embedding(t);        \
    isa::add_loss(t);             \
    isa::add_optimizer(t);        \
    isa::add_elementwise(t);      \
  }

bool always() { return true; }
#if defined(__x86_64__) && !defined(FB_REFERENCE_ONLY)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi"); }
// Matrix registers are large, and Linux wants to be asked for them once a process.
bool ask_for_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, kAll = kBf16 | kTile | kInt8;
  if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAll) != kAll) return false;
  constexpr long kRequestPermission = 0x1023,
                 kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA (Documentation/arch/x86/xstate.rst)
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
bool has_amx() {
  static const bool granted = ask_for_amx();  // a virtual machine takes tens of microseconds to say what its processor is
  return granted;
}
// What matrix registers do; the rest is the table's before.
void fill_amx(Table& t) {
  amx::add_attention(t);
  amx::add_latent_attention(t);
  amx::add_linear(t);
  amx::add_scaled_linear(t);
  amx::add_packed_weights(t);
}
#endif

constexpr Backend kBackends[] = {
    {"reference", always, fill_reference},
#if !defined(FB_REFERENCE_ONLY)
    {"portable", always, FB_FILL(portable)},
#if defined(__x86_64__)
    {"avx2", has_avx2, FB_FILL(avx2)},
    {"avx512", has_avx512, FB_FILL(avx512)},
    {"avx512bf16", has_avx512bf16, FB_FILL(avx512bf16)},
    {"amx", has_amx, fill_amx},
#endif
#endif
};
constexpr std::size_t kCount = std::size(kBackends);
#undef FB_FILL

// Each table holds what the one before it held, with its own functions on top. Where an instruction set does not run, neither does what
// fills its table, which is compiled for it.
const Table* tables() {
  static const auto all = [] {
    std::array<Table, kCount> t{};
    for (std::size_t i = 0; i < kCount; ++i) {
      if (i > 0) t[i] = t[i - 1];
      if (kBackends[i].runs_here()) kBackends[i].fill(t[i]);
      t[i].name = kBackends[i].name;
    }
    return t;
  }();
  return all.data();
}

}  // namespace

const Table& reference() { return tables()[0]; }

// Every function of the table, in its order.
struct Function {
  std::string_view name;
  bool (*missing)(const Table&);
  bool (*same)(const Table&, const Table&);
};
#define FB_FUNCTION(f) {#f, [](const Table& t) { return t.f == nullptr; }, [](const Table& a, const Table& b) { return a.f == b.f; }},
constexpr Function kFunctions[] = {FB_FUNCTIONS(FB_FUNCTION)};
#undef FB_FUNCTION

std::vector<std::string_view> runnable() {
  std::vector<std::string_view> names;
  for (const Backend& b : kBackends)
    if (b.runs_here()) names.push_back(b.name);
  return names;
}

const Table& by_name(std::string_view name) {
  for (std::size_t i = 0; i < kCount; ++i)
    if (kBackends[i].name == name) {
      if (kBackends[i].runs_here()) return tables()[i];
      throw core::Error(core::Exit::usage, "this machine lacks the instruction set", fmt::format("'{}'", name),
                        fmt::format("choose one of {}", fmt::join(runnable(), ", ")));
    }
  throw core::Error(core::Exit::usage, "unknown instruction set", fmt::format("'{}'", name),
                    fmt::format("choose one of {}", fmt::join(runnable(), ", ")));
}

const Table& best() {
  if (const char* name = std::getenv("FINBACK_ISA"); name && *name) return by_name(name);
  return by_name(runnable().back());
}

std::string coverage(const Table& table) {
  std::string lines;
  for (const Function& f : kFunctions) {
    std::size_t i = 0;
    while (i + 1 < kCount && !f.same(table, tables()[i])) ++i;
    lines += fmt::format("{} {}\n", f.name, f.missing(table) ? "missing" : tables()[i].name);
  }
  return lines;
}

}  // namespace finback::kernels
