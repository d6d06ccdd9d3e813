// oneDNN's product y_MN = x_MK · w_NKᵀ, f32 output, for `finback bench gemm`, which starts this program and measures it in turn with
// itself; src/measure/peer.h has the protocol.
//
//   finback_onednn_gemm M N K fp32|bf16 packed|rows COPIES THREADS
//
// packed: the weights in the layout that oneDNN chooses; rows: as they lie in a checkpoint. COPIES of them are used in turn.
#include <dnnl.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <new>
#include <string>
#include <vector>

namespace {

using dnnl::matmul, dnnl::memory;

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

matmul::primitive_desc product(const dnnl::engine& engine, const memory::desc& x, const memory::desc& w, const memory::desc& y) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, x, w, y};
#else
  return {matmul::desc(x, w, y), engine};
#endif
}

// libgomp reads its environment before main. Its threads look for work for about a millisecond, as finback's do, and then sleep: those
// that wait actively would take finback's cores between the bursts, those that sleep at once would pay for waking in every call.
void set_threads(const char* threads, char** argv) {
  if (std::getenv("GOMP_SPINCOUNT")) return;
  ::setenv("GOMP_SPINCOUNT", "20000", 1);
  ::setenv("OMP_NUM_THREADS", threads, 1);
  ::setenv("OMP_DYNAMIC", "false", 1);
  ::unsetenv("OMP_WAIT_POLICY");
  ::unsetenv("OMP_PROC_BIND");
  ::execv("/proc/self/exe", argv);
}

// Memory in huge pages, as finback's operands have: without them a peer that reads weights from memory is several times slower. It is
// kept until the program ends.
memory in_huge_pages(const memory::desc& desc, const dnnl::engine& engine) {
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  const std::size_t bytes = (desc.get_size() / kHugePage + 1) * kHugePage;
  void* data = std::aligned_alloc(kHugePage, bytes);
  if (!data) throw std::bad_alloc();
  ::madvise(data, bytes, MADV_HUGEPAGE);
  return {desc, engine, data};
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 8) {
    std::cerr << "usage: finback_onednn_gemm M N K fp32|bf16 packed|rows COPIES THREADS, started by finback bench gemm\n";
    return 2;
  }
  set_threads(argv[7], argv);
  const memory::dim m = std::stoll(argv[1]), n = std::stoll(argv[2]), k = std::stoll(argv[3]);
  const auto type = std::string(argv[4]) == "bf16" ? memory::data_type::bf16 : memory::data_type::f32;
  const bool packed = std::string(argv[5]) == "packed";
  const std::size_t copies = std::stoull(argv[6]);

  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  using tag = memory::format_tag;
  const auto chosen =
      product(engine, {{m, k}, type, tag::ab}, {{k, n}, type, packed ? tag::any : tag::ba}, {{m, n}, memory::data_type::f32, tag::ab});
  const auto operand = [&](const memory::desc& desc, memory::dim rows, memory::dim cols, tag layout) {
    std::vector<float> numbers(static_cast<std::size_t>(rows * cols));
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(static_cast<int>(i % 61) - 30) / 64;
    memory from({{rows, cols}, memory::data_type::f32, layout}, engine, numbers.data()), to = in_huge_pages(desc, engine);
    dnnl::reorder(from, to).execute(stream, from, to);
    stream.wait();
    return to;
  };
  const memory x = operand(chosen.src_desc(), m, k, tag::ab), y = in_huge_pages(chosen.dst_desc(), engine);
  std::vector<memory> w;
  w.push_back(operand(chosen.weights_desc(), k, n, tag::ba));
  for (std::size_t i = 1; i < copies; ++i) {
    w.push_back(in_huge_pages(chosen.weights_desc(), engine));
    std::memcpy(w[i].get_data_handle(), w[0].get_data_handle(), chosen.weights_desc().get_size());
  }
  const matmul multiply(chosen);

  const auto* version = dnnl::version();
  std::cout << "ready oneDNN " << version->major << '.' << version->minor << '.' << version->patch << ' ' << chosen.impl_info_str()
            << std::endl;
  std::size_t turn = 0;
  const auto call = [&] {
    multiply.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w[turn++ % copies]}, {DNNL_ARG_DST, y}});
    stream.wait();
  };
  const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  double once = 0;
  // As finback's own bursts: the first of many calls is not counted.
  for (std::string command; std::cin >> command && command == "run";) {
    double seconds = 0;
    if (!(std::cin >> seconds)) break;
    if (once < seconds / 2) call();
    const double begin = seconds_now();
    double now;
    int calls = 0;
    do {
      call();
      ++calls;
      now = seconds_now();
    } while (now < begin + seconds);
    once = (now - begin) / calls;
    std::cout << flops / once * 1e-9 << std::endl;
  }
  return 0;
} catch (const std::exception& e) {
  std::cerr << "error: oneDNN, " << e.what() << ", the peer is left out\n";
  return 1;
}
