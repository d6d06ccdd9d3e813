#include "kernels/probe.h"

#include "kernels/cpu/entries.h"
#include "kernels/kernels.h"

namespace finback::kernels {

const Probe& probe(std::string_view isa) {
  by_name(isa);  // throws for what is unknown or does not run here
  const auto make = [](void (*add)(Probe&)) {
    Probe p;
    add(p);
    return p;
  };
#if defined(__x86_64__)
  static const Probe avx2 = make(avx2::add_probe), avx512 = make(avx512::add_probe), avx512bf16 = make(avx512bf16::add_probe),
                     amx = make(amx::add_probe);
  if (isa == "avx2") return avx2;
  if (isa == "avx512") return avx512;
  if (isa == "avx512bf16") return avx512bf16;
  if (isa == "amx") return amx;
#endif
  static const Probe portable = make(portable::add_probe);
  return portable;
}

}  // namespace finback::kernels
