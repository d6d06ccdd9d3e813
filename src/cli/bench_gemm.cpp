// finback bench gemm: one linear layer's products, or the suite of shapes, beside their roofs and oneDNN.
#include "cli/command.h"
#include "core/error.h"
#include "core/json.h"
#include "core/machine.h"
#include "measure/gemm.h"

#include <filesystem>
#include <map>
#include <memory>

namespace finback::cli {
namespace {

const std::map<std::string, core::DType> kTypes = {{"fp32", core::DType::f32}, {"bf16", core::DType::bf16}, {"fp8", core::DType::e4m3}};
const std::map<std::string, measure::Pass> kPasses = {{"forward", measure::Pass::forward},
                                                      {"backward_input", measure::Pass::backward_input},
                                                      {"backward_weight", measure::Pass::backward_weight}};

struct Options {
  measure::Gemm shape;
  std::vector<std::string> types;
  std::string pass = "forward", weights = "packed", peer;
  std::vector<int> threads;
  double seconds = 1;
  bool suite = false, json = false;
};

// Where the build puts it, beside finback; where it is not, there is no peer.
std::string peer_beside_finback() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() / "bench" / "finback_onednn_gemm";
}

struct Row {
  measure::Gemm shape;
  std::string type;
  int threads;
  measure::GemmSpeed speed;
};

boost::json::value optional(const std::optional<double>& x) { return x ? boost::json::value(*x) : boost::json::value(nullptr); }

boost::json::object json_of(const Options& o, const Row& r) {
  const measure::GemmSpeed& s = r.speed;
  boost::json::object object{{"m", r.shape.m},
                             {"n", r.shape.n},
                             {"k", r.shape.k},
                             {"groups", r.shape.groups},
                             {"uneven", r.shape.uneven},
                             {"type", r.type},
                             {"pass", o.pass},
                             {"weights", r.shape.packed ? "packed" : "rows"},
                             {"cold", r.shape.cold},
                             {"threads", r.threads},
                             {"cpu", core::this_machine().cpu},
                             {"isa", kernels::best().name},
                             {"rounds", s.rounds},
                             {"seconds", s.seconds},
                             {"gflops", s.gflops},
                             {"best_gflops", s.best_gflops},
                             {"ceiling_gflops", s.ceiling_gflops},
                             {"share_of_ceiling", s.share_of_ceiling},
                             {"gb_per_s", s.gb_per_s},
                             {"bandwidth_gb_per_s", s.bandwidth_gb_per_s},
                             {"bandwidth_of", s.level},
                             {"share_of_bandwidth", s.share_of_bandwidth},
                             {"share_of_roof", s.share_of_roof},
                             {"dense_gflops", optional(s.dense_gflops)},
                             {"share_of_dense", optional(s.share_of_dense)},
                             {"peer", s.peer.empty() ? boost::json::value(nullptr) : boost::json::value(s.peer)},
                             {"peer_gflops", optional(s.peer_gflops)},
                             {"ratio_to_peer", optional(s.ratio_to_peer)}};
  return object;
}

void print_heading() {
  fmt::print("{:4} {:>6} {:>5} {:>5} {:>6} {:>2} {:>9} {:>7} {:>7} {:>8} {:6} {:>7} {:>7} {:>7} {:>9} {:>7}\n", "type", "M", "N", "K",
             "groups", "T", "GFLOPS", "of", "ceiling", "GB/s", "from", "of it", "of roof", "dense", "oneDNN", "ratio");
}

void print_row(const Row& r) {
  const measure::GemmSpeed& s = r.speed;
  const auto or_dash = [](const std::optional<double>& x, const char* format) { return x ? fmt::format(fmt::runtime(format), *x) : "-"; };
  fmt::print("{:4} {:6} {:5} {:5} {:6} {:2} {:9.1f} {:7.0f} {:5.1f} % {:8.1f} {:6} {:5.1f} % {:5.1f} % {:>7} {:>9} {:>7}\n", r.type,
             r.shape.m, r.shape.n, r.shape.k, r.shape.groups, r.threads, s.gflops, s.ceiling_gflops, 100 * s.share_of_ceiling, s.gb_per_s,
             s.level, 100 * s.share_of_bandwidth, 100 * s.share_of_roof, or_dash(s.share_of_dense, "{:.3f}"),
             or_dash(s.peer_gflops, "{:.1f}"), or_dash(s.ratio_to_peer, "{:.3f}"));
  if (r.shape.cold && s.level != "memory")
    fmt::print("     not cold: the weights that fit into a quarter of the free memory lie in {}\n", s.level);
  std::fflush(stdout);
}

std::vector<measure::Gemm> shapes(const Options& o, core::DType dtype) {
  if (o.suite) return measure::gemm_suite(dtype);
  measure::Gemm shape = o.shape;
  shape.dtype = dtype;
  shape.pass = kPasses.at(o.pass);
  shape.packed = o.weights == "packed" && shape.pass == measure::Pass::forward;
  return {shape};
}

void bench_gemm(Options& o) {
  if (!o.suite && (o.shape.m == 0 || o.shape.n == 0 || o.shape.k == 0))
    throw core::Error(core::Exit::usage, "no shape", "bench gemm", "give --m, --n and --k, or --suite");
  if (o.types.empty()) o.types = o.suite ? std::vector<std::string>{"fp32", "bf16", "fp8"} : std::vector<std::string>{"bf16"};
  if (const int cores = core::this_machine().cores; o.threads.empty()) {
    if (o.suite && cores > 1) o.threads.push_back(1);
    o.threads.push_back(cores);
  }
  boost::json::array rows;
  if (!o.json) print_heading();
  for (const std::string& type : o.types)
    for (const int threads : o.threads)
      for (const measure::Gemm& shape : shapes(o, kTypes.at(type))) {
        core::Team team(threads);
        const Row row{shape, type, threads, measure::gemm(kernels::best(), team, shape, o.peer, o.seconds)};
        if (o.json) rows.push_back(json_of(o, row));
        else print_row(row);
      }
  if (o.json) fmt::print("{}", core::pretty_json(rows.size() == 1 ? rows[0] : boost::json::value{{"rows", rows}}));
}

}  // namespace

void add_bench_gemm(CLI::App& bench) {
  auto* command = bench.add_subcommand("gemm", "A linear layer y_MN = x_MK · w_NKᵀ and its backward products");
  const auto o = std::make_shared<Options>();
  o->peer = peer_beside_finback();
  const CLI::Range sizes(std::int64_t{1}, std::int64_t{1} << 20);
  std::vector<CLI::Option*> of_one = {
      command->add_option("--m", o->shape.m, "rows, of all groups together")->check(sizes),
      command->add_option("--n", o->shape.n, "the layer's outputs")->check(sizes),
      command->add_option("--k", o->shape.k, "the layer's inputs")->check(sizes),
      command->add_option("--groups", o->shape.groups, "experts, each with its weights and an equal share of the rows")
          ->check(CLI::Range(std::int64_t{1}, std::int64_t{65536}))
          ->capture_default_str(),
      command->add_flag("--uneven", o->shape.uneven, "shares of the rows from none to twice the mean"),
      command->add_option("--pass", o->pass, "which of the three products")->check(CLI::IsMember(kPasses))->capture_default_str(),
      command->add_option("--weights", o->weights, "of the forward product: in the order it reads them, or as in a checkpoint")
          ->check(CLI::IsMember({"packed", "rows"}))
          ->capture_default_str(),
      command->add_flag("--cold", o->shape.cold, "every call finds the weights in memory, not in the caches")};
  auto* suite = command->add_flag("--suite", o->suite, "a table of the shapes that finback is held to");
  for (CLI::Option* option : of_one) suite->excludes(option);
  command
      ->add_option("--type", o->types, "of weights and activations; fp8 codes bf16 activations inside the call (default: bf16; suite: all)")
      ->check(CLI::IsMember(kTypes));
  command->add_option("--threads", o->threads, "one measurement for each number (default: every core; suite: 1 and every core)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--seconds", o->seconds, "for the product, and for each of what it is compared with")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  command->add_option("--peer", o->peer, "the program of the other product (default: bench/finback_onednn_gemm beside finback)");
  command->add_flag("--json", o->json, "one JSON object");
  command->footer(
      "Examples:\n  finback bench gemm --m 4096 --n 1024 --k 512 --type bf16\n  finback bench gemm --suite --type bf16 fp8 --threads 1");
  command->callback([o] { bench_gemm(*o); });
}

}  // namespace finback::cli
