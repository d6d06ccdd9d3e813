#include "studies/fp8/page.h"

#include "studies/fp8/statistics.h"
#include "studies/markdown.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

namespace finback::studies {
namespace {

using formats::LineChart;
using formats::Series;

constexpr double kBound = 0.25;  // per cent, of the relative difference in loss [V3 §3.3]
constexpr int kSteps = 3000, kLastThird = 2000;
constexpr int kRows = 64, kLongestSum = 4096;  // products [V3 §3.3.2]

// ---- what is compared

std::span<const double> held_out_of_last_third(const Run& run) {
  const auto first = std::upper_bound(run.step.begin(), run.step.end(), kLastThird) - run.step.begin();
  return std::span(run.held_out).subspan(static_cast<std::size_t>(first));
}
std::span<const double> training_of_last_third(const Run& run) { return std::span(run.training).subspan(kLastThird / Run::kTrainingSteps); }

double held_out_difference(const Run& a, const Run& b) {
  return mean_relative_difference(held_out_of_last_third(a), held_out_of_last_third(b));
}

// In per cent of b's held-out loss, at every evaluation.
Series difference(const std::string& name, const Run& a, const Run& b) {
  Series s{name, a.step, {}};
  for (std::size_t i = 0; i < a.step.size(); ++i) s.y.push_back(100 * (a.held_out[i] - b.held_out[i]) / b.held_out[i]);
  return s;
}
Series level(double value) { return {"", {250, kSteps}, {value, value}, /*faint=*/true}; }

struct Pair {
  std::string seed;
  const Run *bf16, *fp8;
};

std::vector<Pair> complete_pairs(const Results& results) {
  std::vector<Pair> out;
  for (const Run& run : results.runs) {
    if (!run.name.starts_with("bf16-")) continue;
    const std::string seed = run.name.substr(5);
    if (const Run* fp8 = results.find("fp8-" + seed)) out.push_back({seed, &run, fp8});
  }
  return out;
}

// ---- the parts

// What the interval says of the bound.
std::string_view verdict(const Interval& i) {
  const double low = 100 * i.low(), high = 100 * i.high();
  if (low > -kBound && high < kBound) return "So is the whole interval: at this size FP8 meets the bound.";
  if (low > kBound || high < -kBound) return "So is the whole interval: at this size FP8 **misses the bound**.";
  return "The interval holds values on either side of it: these runs do **not** decide whether FP8 meets the bound at this size.";
}

void write_pairs(Markdown& w, const Results& results) {
  w.heading("FP8 against BF16");
  w.paragraph(
      "The same seed gives both runs the same initial values and the same tokens in the same order; FP8 keeps activations as `paper` does. "
      "A "
      "seed's difference is the mean of (FP8 − BF16) / BF16 over the evaluations of the last third, those after step {}.",
      thousands(kLastThird));
  const std::vector<Pair> pairs = complete_pairs(results);
  if (pairs.empty()) {
    w.paragraph("No pair is complete yet.");
    return;
  }
  std::vector<std::vector<std::string>> rows;
  std::vector<double> held_out, training;
  for (const Pair& p : pairs) {
    held_out.push_back(held_out_difference(*p.fp8, *p.bf16));
    training.push_back(mean_relative_difference(training_of_last_third(*p.fp8), training_of_last_third(*p.bf16)));
    rows.push_back({p.seed, number(p.bf16->held_out.back(), 4), number(p.fp8->held_out.back(), 4), percent(held_out.back()),
                    percent(training.back())});
  }
  w.table({"seed", "BF16, held-out loss at the end", "FP8", "difference, held-out", "difference, training loss"}, rows);
  if (pairs.size() > 1) {
    const Interval i = student_interval(held_out), t = student_interval(training);
    w.paragraph(
        "Mean over {} seeds: **{} on held-out text**, 95 % interval {} … {} (Student's t); training loss {} ({} … {}). The published bound "
        "is "
        "{} %: the mean is {} it. {}",
        pairs.size(), percent(i.mean), percent(i.low()), percent(i.high()), percent(t.mean), percent(t.low()), percent(t.high()), kBound,
        std::abs(100 * i.mean) < kBound ? "within" : "**beyond**", verdict(i));

    std::vector<std::vector<std::string>> others;
    for (std::size_t a = 0; a < pairs.size(); ++a)
      for (std::size_t b = a + 1; b < pairs.size(); ++b)
        others.push_back({fmt::format("{} against {}", pairs[b].seed, pairs[a].seed),
                          percent(held_out_difference(*pairs[b].bf16, *pairs[a].bf16)),
                          percent(held_out_difference(*pairs[b].fp8, *pairs[a].fp8))});
    w.paragraph("Beside it, what another seed does at the same precision:");
    w.table({"seeds", "BF16", "FP8"}, others);
  }
  if (const Run *other = results.find("bf16-rounding-1"), *same = results.find("bf16-1"); other && same)
    w.paragraph(
        "And what rounding alone does: BF16 with seed 1 and micro-batches of 2 sequences instead of 4 adds the same numbers in another "
        "order. Its held-out loss differs from BF16's by {}. A difference of this size between two runs of one seed tells nothing.",
        percent(held_out_difference(*other, *same)));

  LineChart loss{"Held-out loss, seed " + pairs[0].seed, "step", "nats per token", {}};
  loss.series = {{"BF16", pairs[0].bf16->step, pairs[0].bf16->held_out}, {"FP8", pairs[0].fp8->step, pairs[0].fp8->held_out}};
  w.picture("fp8-loss", loss);
  LineChart gap{"FP8 against BF16 of the same seed", "step", "difference in held-out loss, per cent; pale: the published bound", {}};
  for (const Pair& p : pairs) gap.series.push_back(difference("seed " + p.seed, *p.fp8, *p.bf16));
  gap.series.push_back(level(kBound));
  gap.series.push_back(level(-kBound));
  w.picture("fp8-difference", gap);
}

void write_accumulation(Markdown& w, const Results& results) {
  if (results.accumulation.empty()) return;
  w.heading("Sums of 14 bits");
  w.paragraph(
      "A Hopper tensor core aligns 32 products and the running sum to the largest exponent among them and cuts off below 14 bits. For two "
      "random matrices and K = 4096 the report names a maximum relative error of nearly 2 %, and neither the distribution nor the metric. "
      "Here x and w are 64 × 4096 each, drawn independently of the distribution named, quantised to E4M3 in the scheme's tiles with scales "
      "that are powers of two (others would give products more bits than codes have, where nothing is promoted), and multiplied by the "
      "reference kernels' emulation (`numerics/narrow_accumulate.h`). Errors e are against exact sums r of the same codes, so that "
      "quantising does not enter. In per cent:");
  std::vector<std::vector<std::string>> rows;
  const auto p = [](double ratio) { return fmt::format("{:.3g}", 100 * ratio); };
  for (const AccumulationError& e : results.accumulation) {
    if (e.k != kLongestSum || e.rows != kRows) continue;
    rows.push_back({e.distribution, e.promote ? "every 128" : "never", p(e.largest_to_largest), p(e.largest_to_rms), p(e.rms_to_rms),
                    p(e.mean_relative), p(e.largest_relative), fmt::format("{}{}", e.bias < 0 ? "−" : "+", p(std::abs(e.bias)))});
  }
  w.table({"elements of x and w", "promoted to FP32", "max \\|e\\| / max \\|r\\|", "max \\|e\\| / rms r", "rms e / rms r",
           "mean of \\|e\\| / \\|r\\|", "max of \\|e\\| / \\|r\\|", "bias, Σ e · sign r / Σ \\|r\\|"},
          rows);
  const auto find = [&](Distribution d, std::int64_t count, bool promote) {
    return std::find_if(results.accumulation.begin(), results.accumulation.end(), [&](const AccumulationError& e) {
      return e.distribution == name_of(d) && e.rows == count && e.k == kLongestSum && e.promote == promote;
    });
  };
  const auto normal = find(Distribution::normal, kRows, false), larger = find(Distribution::normal, 4 * kRows, false);
  const auto positive = find(Distribution::positive_uniform, kRows, false);
  w.paragraph(
      "Which of them is the published 2 %? None exactly. Not max |e| / |r|, which a single r near zero makes as large as one likes. Not "
      "max |e| / max "
      "|r|: "
      "{} % with signed elements, and {} % with positive ones, where every cut makes the sum smaller and the running sum outgrows its "
      "terms. Nearest comes max |e| beside a typical r, max |e| / rms r, with signed elements: {} % of the 4,096 elements here, and {} % "
      "of "
      "the 65,536 of a 256 × 256 product, since a largest error grows with the number of errors. Promotion to FP32 every 128 terms leaves "
      "{:.1f} % of max |e| with normal elements and {:.1f} % with positive ones.",
      p(normal->largest_to_largest), p(positive->largest_to_largest), p(normal->largest_to_rms), p(larger->largest_to_rms),
      100 * find(Distribution::normal, kRows, true)->largest_to_largest / normal->largest_to_largest,
      100 * find(Distribution::positive_uniform, kRows, true)->largest_to_largest / positive->largest_to_largest);
  LineChart chart{"Error of 14-bit sums of K products", "K", "max |e| / max |r|, per cent", {}, /*log_y=*/true};
  const std::pair<Distribution, const char*> kinds[] = {{Distribution::normal, "signed"}, {Distribution::positive_normal, "positive"}};
  for (const auto& [distribution, label] : kinds)
    for (const bool promote : {false, true}) {
      Series s{fmt::format("{}{}", label, promote ? ", promoted" : ""), {}, {}};
      for (const AccumulationError& e : results.accumulation) {
        if (e.distribution != name_of(distribution) || e.rows != kRows || e.promote != promote) continue;
        s.x.push_back(static_cast<double>(e.k));
        s.y.push_back(100 * e.largest_to_largest);
      }
      chart.series.push_back(std::move(s));
    }
  w.picture("fp8-accumulation", chart);
}

// A row for each of the kinds whose run with seed 1 is complete: held-out loss at the end, and beside two others' in the last third.
std::vector<std::vector<std::string>> loss_cells(const Results& results, const Run* run) {
  if (!run) return {{"not complete", "", "", ""}};
  const Run *bf16 = results.find("bf16-1"), *fp8 = results.find("fp8-1");
  const auto against = [&](const Run* other) { return other ? percent(held_out_difference(*run, *other)) : std::string("–"); };
  return {{number(run->held_out.back(), 4), against(bf16), run == fp8 ? "" : against(fp8), thousands(run->nonfinite_tiles)}};
}

std::string loss_name(std::string_view storage) { return storage == "paper" ? std::string("fp8-1") : fmt::format("storage-{}-1", storage); }

void write_storage(Markdown& w, const Results& results) {
  w.heading("What the activation store costs and saves");
  w.paragraph(
      "Precision FP8, seed 1, four ways of keeping what backward needs ([fp8.md](../fp8.md) lists the tensors). Bytes are the memory that "
      "one "
      "micro-batch of 1,024 tokens really took, a token: of one MoE layer (a model less one layer takes so much less), and of all layers "
      "with "
      "the dense one and MTP.");
  const auto storage_of = [&](std::string_view name) {
    return std::find_if(results.storage.begin(), results.storage.end(), [&](const Storage& s) { return s.name == name; });
  };
  std::vector<std::vector<std::string>> rows;
  for (const Storage& s : results.storage) {
    std::vector<std::string> row = {fmt::format("`{}`", s.name), thousands(s.layer), thousands(s.taken),
                                    number(s.taken / storage_of("bf16")->taken, 2), number(s.taken / storage_of("full")->taken, 2)};
    const auto loss = loss_cells(results, results.find(loss_name(s.name)))[0];
    row.insert(row.end(), loss.begin(), loss.begin() + 3);
    rows.push_back(row);
  }
  w.table({"`activation_storage`", "bytes a token of an MoE layer", "of all layers", "share of `bf16`", "share of `full`",
           "held-out loss at the end", "against BF16", "against `paper`"},
          rows);
  std::vector<double> differences;
  for (const Storage& s : results.storage)
    if (const Run *run = results.find(loss_name(s.name)), *bf16 = results.find("bf16-1"); run && bf16)
      differences.push_back(held_out_difference(*run, *bf16));
  if (differences.size() > 1)
    w.paragraph(
        "The losses rank nothing: `full` rounds least and need not come out best. That they lie between {} and {} shows how far runs of "
        "one "
        "seed come apart when a rounding here and there is another, and how finely this study can tell FP8 from BF16.",
        percent(*std::min_element(differences.begin(), differences.end())),
        percent(*std::max_element(differences.begin(), differences.end())));
  if (results.recomputed_steps > 0)
    w.paragraph(
        "`full` and `bf16` are to compute the same bits, once by keeping and once by computing again. Of the {} steps that both have run, "
        "{} have the same losses and the same gradient norm, to the last bit.",
        thousands(static_cast<double>(results.recomputed_steps)),
        results.recomputed_equal == results.recomputed_steps ? "all" : fmt::format("**only {}**", results.recomputed_equal));
}

void write_variants(Markdown& w, const Results& results) {
  w.heading("Other ways to quantise gradients and to scale");
  w.paragraph("Each is the FP8 run of seed 1 with one switch of `[fp8]` turned.");
  std::vector<std::vector<std::string>> rows;
  LineChart chart{"Variants against BF16, seed 1", "step", "difference in held-out loss, per cent", {}};
  const std::pair<const char*, const char*> kinds[] = {{"fp8-1", "published scheme"},
                                                       {"gradient-blocks-1", "gradients by blocks of 128 × 128"},
                                                       {"gradient-e5m2-1", "gradients in E5M2"},
                                                       {"power-of-two-1", "all scales powers of two"}};
  const char* short_names[] = {"published", "blocks", "E5M2", "powers of 2"};
  for (std::size_t i = 0; i < std::size(kinds); ++i) {
    const Run *run = results.find(kinds[i].first), *bf16 = results.find("bf16-1");
    std::vector<std::string> row = {kinds[i].second};
    const auto loss = loss_cells(results, run)[0];
    row.insert(row.end(), loss.begin(), loss.end());
    rows.push_back(row);
    if (run && bf16) chart.series.push_back(difference(short_names[i], *run, *bf16));
  }
  w.table({"scheme", "held-out loss at the end", "against BF16", "against the published scheme", "tiles with NaN or infinity"}, rows);
  if (chart.series.size() > 1) w.picture("fp8-variants", chart);
}

}  // namespace

std::vector<Document> write_page(const Results& results) {
  std::string isas;
  for (const Run& r : results.runs)
    if (isas.find(r.isa) == std::string::npos) isas += (isas.empty() ? "" : ", ") + r.isa;
  const double trained = 1024.0 * kSteps;
  Markdown w(
      "# FP8 beside BF16 at a small size\n\n"
      "```sh\n"
      "studies/fp8/run               # trains what is missing, on texts from FINBACK_DATA; writes studies/fp8/results.json and this page\n"
      "studies/fp8/run my.txt        # the same on texts of your own\n"
      "```\n\n");
  w.paragraph(
      "[fp8.md](../fp8.md) says what is in FP8 and with which scales; here is what it costs in loss. Every run is "
      "`configs/models/tiny.json` (16.0 million parameters) for {} steps of 1,024 tokens as `studies/fp8/run.toml` says, with what "
      "`studies/fp8/runs` sets over it The text: {} It makes {} tokens to train on, of a "
      "vocabulary of 8,192, so that {} trained tokens "
      "are {:.1f} passes. The last fortieth of each text, {} tokens, is held out, from the tokenizer's training too, and scored as a whole "
      "every 250 steps, in nats per token. {} of {} runs are complete; kernels: {}.",
      thousands(kSteps), results.text, thousands(static_cast<double>(results.train_tokens)), thousands(trained),
      trained / static_cast<double>(results.train_tokens), thousands(static_cast<double>(results.held_out_tokens)), results.runs.size(),
      results.planned, isas.empty() ? "none yet" : isas);
  w.heading("What a study of this size can and cannot show");
  w.paragraph(
      "It can catch gross faults of the scheme: a wrong scale, a product left out, a store that gives back something else. It can weigh "
      "what "
      "is kept, in bytes. It can hold the arithmetic of a sum against the published figure, which needs no training.");
  w.paragraph(
      "It cannot show that FP8 is harmless at scale. The published bound was held over 0.9 to 1.3 trillion tokens with 16 and 230 billion "
      "parameters; here they are 3 million tokens and 16 million parameters. A hidden size of 256 is two tiles wide, the longest sum of a "
      "product has 1,024 terms, and outliers that grow over a long training have no time to. Block-wise gradients diverged in the report "
      "after about 300 billion tokens: whatever they do here, it says little about that. Three seeds make a wide interval. And two runs of "
      "one seed drift apart from a single last bit on, so that where a part has one seed, what lies within the spread between seeds ranks "
      "nothing.");
  write_pairs(w, results);
  write_accumulation(w, results);
  write_storage(w, results);
  write_variants(w, results);

  return w.take("fp8.md");
}

}  // namespace finback::studies
