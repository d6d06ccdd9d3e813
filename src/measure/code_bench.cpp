#include "measure/code_bench.h"

#include "core/clock.h"
#include "core/error.h"
#include "kernels/traced.h"
#include "measure/ceiling.h"
#include "measure/speed.h"

#include <algorithm>
#include <functional>

namespace finback::measure {
namespace {

using core::Arena;
using core::DType;
using core::Mat;
using kernels::Context;
using kernels::Quantization;
using kernels::ScaledBuffer;
using kernels::ScaledMat;
using kernels::tiles_of;

// One function: what it needs, and a call of it.
struct Case {
  std::string name, from, to;
  std::function<void(Arena&, std::int64_t rows, std::int64_t cols)> take;  // operands, from an arena that may be counting
  std::function<void(const Context&)> call, before;                        // `before`: once, to make the codes that it reads; or null
};

// All cases share one set of operands, taken anew for each.
class Cases {
 public:
  Cases() {
    for (const DType type : {DType::bf16, DType::f32}) rows(type, {DType::e4m3, false});
    rows(DType::bf16, {DType::e4m3, true});
    rows(DType::bf16, {DType::e5m2, false});
    columns();
    for (const DType type : {DType::bf16, DType::f32}) blocks(type);
    e5m6();
    for (const int bits : {8, 10}) logfmt(bits);
  }
  const std::vector<Case>& all() const { return cases_; }

 private:
  static std::string name(const Quantization& q) {
    return std::string(core::name_of(q.format)) + (q.power_of_two ? ", powers of two" : "");
  }
  static Mat filled(Arena& arena, DType dtype, std::int64_t rows, std::int64_t cols) {
    const Mat m = arena.take_mat(dtype, rows, cols);
    if (m) fill(m);
    return m;
  }
  void take(Arena& arena, DType plain, DType code, std::int64_t rows, std::int64_t cols, std::int64_t code_cols, std::int64_t scale_rows,
            std::int64_t scale_cols) {
    x_ = filled(arena, plain, rows, cols);
    y_ = arena.take_mat(plain, rows, cols);
    codes_ = {arena.take_mat(code, rows, code_cols), arena.take_mat(DType::f32, scale_rows, scale_cols)};
  }
  void take_rows(Arena& arena, DType plain, DType code, std::int64_t rows, std::int64_t cols) {
    take(arena, plain, code, rows, cols, cols, rows, tiles_of(cols));
  }
  // A function, and the one back (empty: none).
  void add(const std::string& there, const std::string& back, const std::string& plain, const std::string& code,
           const decltype(Case::take)& operands, const decltype(Case::call)& encode, const decltype(Case::call)& decode = {}) {
    cases_.push_back({there, plain, code, operands, encode, {}});
    if (!back.empty()) cases_.push_back({back, code, plain, operands, decode, encode});
  }

  void rows(DType plain, Quantization q) {
    add(
        "quantize_rows", q.power_of_two ? "" : "dequantize_rows", core::name_of(plain), name(q),
        [=, this](Arena& a, std::int64_t r, std::int64_t c) { take_rows(a, plain, q.format, r, c); },
        [=, this](const Context& ctx) { ctx.kernels.quantize_rows(ctx, x_, q, codes_); },
        [this](const Context& ctx) { ctx.kernels.dequantize_rows(ctx, codes_, y_); });
  }
  void columns() {
    const auto operands = [this](Arena& a, std::int64_t r, std::int64_t c) {
      take_rows(a, DType::bf16, DType::e4m3, r, c);
      columns_ = {a.take_mat(DType::e4m3, r, c), a.take_mat(DType::f32, tiles_of(r), c)};
    };
    const auto code = [this](const Context& ctx, const ScaledMat& from) {
      const std::int64_t offsets[] = {0, from.codes.rows};
      ctx.kernels.quantize_columns(ctx, from, kernels::Offsets(offsets), {}, columns_);
    };
    add("quantize_columns", "", "bf16", "e4m3", operands, [=, this](const Context& ctx) { code(ctx, {x_, {}}); });
    cases_.push_back({"quantize_columns", "e4m3 in 1x128 tiles", "e4m3", operands, [=, this](const Context& ctx) { code(ctx, codes_); },
                      [this](const Context& ctx) { ctx.kernels.quantize_rows(ctx, x_, {}, codes_); }});
  }
  void blocks(DType plain) {
    add(
        "quantize_blocks", "dequantize_blocks", core::name_of(plain), "e4m3",
        [=, this](Arena& a, std::int64_t r, std::int64_t c) { take(a, plain, DType::e4m3, r, c, c, tiles_of(r), tiles_of(c)); },
        [this](const Context& ctx) { ctx.kernels.quantize_blocks(ctx, x_, 1, {}, {}, codes_); },
        [this](const Context& ctx) {
          ctx.kernels.dequantize_blocks(ctx, {codes_.codes.data, DType::e4m3, 1, codes_.codes.rows, codes_.codes.cols, codes_.scales}, y_);
        });
  }
  void e5m6() {
    add(
        "encode_e5m6", "decode_e5m6", "bf16", "e5m6",
        [this](Arena& a, std::int64_t r, std::int64_t c) { take(a, DType::bf16, DType::u8, r, c, 3 * ((c + 1) / 2), r, tiles_of(c)); },
        [this](const Context& ctx) { ctx.kernels.encode_e5m6(ctx, x_, codes_); },
        [this](const Context& ctx) { ctx.kernels.decode_e5m6(ctx, codes_, y_); });
  }
  void logfmt(int bits) {
    add(
        "encode_logfmt", "decode_logfmt", "bf16", "LogFMT-" + std::to_string(bits),
        [=, this](Arena& a, std::int64_t r, std::int64_t c) {
          take(a, DType::bf16, DType::u8, r, c, kernels::log_bytes(c, bits), r, 2 * tiles_of(c));
        },
        [=, this](const Context& ctx) { ctx.kernels.encode_logfmt(ctx, x_, bits, codes_); },
        [=, this](const Context& ctx) { ctx.kernels.decode_logfmt(ctx, codes_, bits, y_); });
  }

  std::vector<Case> cases_;
  Mat x_, y_;
  ScaledBuffer codes_, columns_;
};

// The bytes that a call reads and writes, from the span that the traced table makes of it.
double bytes_of(const Case& c, const Context& plain) {
  const kernels::TracedTable traced(plain.kernels);
  core::Spans spans(1);
  c.call({traced, plain.team, plain.scratch, &spans});
  return spans[0].work.read + spans[0].work.written;
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// The function and the copy in turns, of which the best call counts; a turn of the function is compared with the copies just before
// and after it.
CodeSpeed measure_case(const Case& c, const Context& ctx, std::int64_t rows, std::int64_t cols, double seconds) {
  if (c.before) c.before(ctx);
  const double bytes = bytes_of(c, ctx);
  const auto half = static_cast<std::int64_t>(bytes / 2);
  TrafficCeiling copy(ctx.team, {half, 0, half});
  const double begin = core::seconds_now();
  c.call(ctx);
  const double turn = std::max(0.005, 3 * (core::seconds_now() - begin));
  std::vector<double> calls, copies, shares;
  double before = copy.rate(turn);
  const double end = core::seconds_now() + seconds;
  while (calls.size() < 5 || core::seconds_now() < end) {
    calls.push_back(best_rate(turn, [&] { return c.call(ctx), bytes; }));
    const double after = copy.rate(turn);
    copies.push_back(after);
    shares.push_back(calls.back() / ((before + after) / 2));
    before = after;
  }
  CodeSpeed s{c.name, c.from, c.to, rows, cols, static_cast<int>(calls.size())};
  s.gb_per_s = median(calls);
  s.elements_per_s = s.gb_per_s * 1e9 / bytes * static_cast<double>(rows * cols);
  s.copy_gb_per_s = median(copies);
  s.share_of_copy = median(shares);
  s.level = copy.level();
  return s;
}

}  // namespace

std::vector<CodeSpeed> bench_codes(const kernels::Table& table, const CodeBenchOptions& o) {
  const Cases cases;
  core::Team team(o.threads);
  Arena scratch("scratch", kernels::scratch_bytes(o.threads));
  std::vector<CodeSpeed> speeds;
  for (const Case& c : cases.all()) {
    if (c.name.find(o.only) == std::string::npos) continue;
    for (const std::int64_t rows : o.rows) {
      Arena count = Arena::counting();
      c.take(count, rows, o.cols);
      Arena arena("operands", count.high_water());
      c.take(arena, rows, o.cols);
      speeds.push_back(measure_case(c, {table, team, scratch}, rows, o.cols, o.seconds));
    }
  }
  if (speeds.empty()) throw core::Error(core::Exit::usage, "no function of that name", o.only, "leave --only out to see all names");
  return speeds;
}

}  // namespace finback::measure
