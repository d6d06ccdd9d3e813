#include "data/stream.h"

#include "core/rng.h"
#include "tests/formats/temp_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

namespace finback::data {
namespace {

constexpr std::int32_t kEos = 1, kVocab = 1000;
const FimTokens kMarks{.begin = 2, .hole = 3, .end = 4};

class Streams : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::vector<std::vector<std::int32_t>>& documents) const {
    formats::TokenFileWriter out(folder_ / name, core::DType::u16);
    for (const auto& d : documents) out.add_document(d);
    out.commit();
    return folder_ / name;
  }
  finback::testing::TempFolder folder_;
};

// Documents of ids that name their place, eos last: token k of document d is 10 + (d · 131 + k) mod 900.
std::int32_t token(std::size_t d, std::size_t k) { return 10 + static_cast<std::int32_t>((d * 131 + k) % 900); }

std::vector<std::vector<std::int32_t>> documents_of(const std::vector<std::size_t>& lengths) {
  std::vector<std::vector<std::int32_t>> documents;
  for (std::size_t d = 0; d < lengths.size(); ++d) {
    documents.emplace_back();
    for (std::size_t k = 0; k < lengths[d]; ++k) documents[d].push_back(k + 1 == lengths[d] ? kEos : token(d, k));
  }
  return documents;
}

std::vector<std::size_t> mixed_lengths(std::size_t n) {
  const core::Rng rng(5, core::Stream::test);
  std::vector<std::size_t> lengths(n);
  for (std::size_t i = 0; i < n; ++i) lengths[i] = rng.below(i, i % 10 == 0 ? 400 : 60);
  lengths[n / 2] = 5000;
  return lengths;
}

StreamOptions options(std::int64_t seq_len) { return {.seq_len = seq_len, .vocab_size = kVocab, .seed = 11, .eos_id = kEos}; }

Stream make(const std::vector<std::string>& paths, const StreamOptions& o, const std::vector<double>& weights = {}) {
  return {paths, weights, o};
}

struct Batch {
  std::vector<std::int32_t> inputs, targets;
  bool operator==(const Batch&) const = default;
};

Batch draw(Stream& stream, std::int64_t position, std::int64_t count) {
  const auto n = static_cast<std::size_t>(count * stream.options().seq_len);
  Batch b{std::vector<std::int32_t>(n), std::vector<std::int32_t>(n)};
  stream.fill(position, b.inputs, b.targets);
  return b;
}

// The tokens of a sequence: its inputs and the last target, without the filling.
std::vector<std::int32_t> tokens_of(const Batch& b) {
  std::vector<std::int32_t> t{b.inputs[0]};
  for (std::size_t i = 0; i < b.targets.size() && b.targets[i] >= 0; ++i) t.push_back(b.targets[i]);
  return t;
}

std::vector<std::int32_t> sorted_epoch(Stream& stream, std::int64_t epoch) {
  std::int64_t begin = 0;
  for (std::int64_t e = 0; e < epoch; ++e) begin += stream.sources()[0].sequences_in_epoch(e);
  std::vector<std::int32_t> all;
  for (std::int64_t i = 0; i < stream.sources()[0].sequences_in_epoch(epoch); ++i)
    for (const auto t : tokens_of(draw(stream, begin + i, 1))) all.push_back(t);
  std::sort(all.begin(), all.end());
  return all;
}

std::vector<std::int32_t> sorted_tokens(const std::vector<std::vector<std::int32_t>>& documents) {
  std::vector<std::int32_t> all;
  for (const auto& d : documents) all.insert(all.end(), d.begin(), d.end());
  std::sort(all.begin(), all.end());
  return all;
}

TEST_F(Streams, AnEpochHoldsEachTokenOnce) {
  const auto documents = documents_of(mixed_lengths(200));
  for (const std::int64_t seq_len : {1, 2, 16, 100, 511}) {
    Stream stream = make({write("a", documents)}, options(seq_len));
    for (const std::int64_t epoch : {0, 1, 2}) ASSERT_EQ(sorted_epoch(stream, epoch), sorted_tokens(documents)) << seq_len;
  }
}

TEST_F(Streams, TargetsAreTheNextInputs) {
  Stream stream = make({write("a", documents_of(mixed_lengths(100)))}, options(64));
  for (std::int64_t p = 0; p < stream.sources()[0].sequences_in_epoch(0); ++p) {
    const Batch b = draw(stream, p, 1);
    bool filling = false;
    for (std::size_t i = 0; i + 1 < b.inputs.size(); ++i) {
      filling |= b.targets[i] < 0;
      ASSERT_EQ(b.targets[i] < 0, filling);
      ASSERT_EQ(b.inputs[i + 1], filling ? kEos : b.targets[i]);
    }
  }
}

TEST_F(Streams, DocumentsThatFitAreNeverCut) {
  const auto documents = documents_of(mixed_lengths(300));
  Stream stream = make({write("a", documents)}, options(128));
  std::vector<std::vector<std::int32_t>> sequences;
  for (std::int64_t p = 0; p < stream.sources()[0].sequences_in_epoch(0); ++p) sequences.push_back(tokens_of(draw(stream, p, 1)));
  for (const auto& d : documents) {
    if (d.empty() || d.size() > 129) continue;
    ASSERT_TRUE(std::any_of(sequences.begin(), sequences.end(),
                            [&](const auto& s) { return std::search(s.begin(), s.end(), d.begin(), d.end()) != s.end(); }));
  }
}

TEST_F(Streams, OneHugeDocumentIsCutElsewhereInEachEpoch) {
  const auto documents = documents_of({20000});
  Stream stream = make({write("a", documents)}, options(64));
  const std::int64_t n = stream.sources()[0].sequences_in_epoch(0);
  EXPECT_NEAR(static_cast<double>(n), 20000.0 / 65, 2);
  EXPECT_EQ(sorted_epoch(stream, 0), sorted_tokens(documents));
  std::map<std::int32_t, int> first_epoch;
  for (std::int64_t p = 0; p < n; ++p) ++first_epoch[draw(stream, p, 1).inputs[0] % 65];
  std::map<std::int32_t, int> second_epoch;
  for (std::int64_t p = n; p < 2 * n; ++p) ++second_epoch[draw(stream, p, 1).inputs[0] % 65];
  EXPECT_NE(first_epoch, second_epoch);
}

TEST_F(Streams, APositionAloneDecidesTheSequence) {
  const std::string a = write("a", documents_of(mixed_lengths(150))), b = write("b", documents_of(mixed_lengths(77)));
  StreamOptions o = options(48);
  o.fim_rate = 0.5;
  o.fim = kMarks;
  Stream whole = make({a, b}, o, {3, 1});
  const Batch all = draw(whole, 0, 400);  // several epochs
  const auto slice = [&](std::int64_t position, std::int64_t count) {
    const auto begin = position * 48, end = (position + count) * 48;
    return Batch{{all.inputs.begin() + begin, all.inputs.begin() + end}, {all.targets.begin() + begin, all.targets.begin() + end}};
  };
  // A new stream that begins anywhere, as after a resume; micro-batches; and going back.
  for (const std::int64_t position : {399, 0, 250, 17}) {
    Stream resumed = make({a, b}, o, {3, 1});
    EXPECT_EQ(draw(resumed, position, 1), slice(position, 1)) << position;
  }
  EXPECT_EQ(draw(whole, 100, 32), slice(100, 32));
  EXPECT_EQ(draw(whole, 3, 5), slice(3, 5));
  o.seed = 12;
  Stream other = make({a, b}, o, {3, 1});
  EXPECT_NE(draw(other, 0, 400), all);
}

TEST_F(Streams, EpochsComeInDifferentOrders) {
  Stream stream = make({write("a", documents_of(std::vector<std::size_t>(100, 33)))}, options(32));
  ASSERT_EQ(stream.sources()[0].sequences_in_epoch(0), 100);
  EXPECT_NE(draw(stream, 0, 100), draw(stream, 100, 100));
}

TEST_F(Streams, SourcesAreMixedByTheirWeights) {
  std::vector<std::string> paths;
  for (const char* name : {"a", "b", "c"}) paths.push_back(write(name, documents_of(mixed_lengths(20))));
  const std::vector<double> weights{0.1, 7, 2.9};
  Stream stream = make(paths, options(16), weights);
  std::vector<std::vector<std::int64_t>> numbers(3);
  for (std::int64_t p = 0; p < 8192; ++p) {
    const auto d = stream.draw(p);
    numbers[d.source].push_back(d.number);
    for (std::size_t s = 0; s < 3 && (p + 1) % 1024 == 0; ++s)
      ASSERT_NEAR(static_cast<double>(numbers[s].size()), weights[s] / 10 * static_cast<double>(p + 1), 2);
    // Within a block the shares hold as in a random order: five standard deviations.
    if (p == 511) {
      EXPECT_NEAR(static_cast<double>(numbers[1].size()), 0.7 * 512, 5 * std::sqrt(512 * 0.7 * 0.3));
    }
  }
  for (auto& n : numbers) {  // each of a source's sequences once
    std::sort(n.begin(), n.end());
    for (std::size_t i = 0; i < n.size(); ++i) ASSERT_EQ(n[i], static_cast<std::int64_t>(i));
  }
}

TEST_F(Streams, WithoutWeightsTheTokensCount) {
  Stream stream = make({write("a", documents_of({300, 300})), write("b", documents_of({200}))}, options(16));
  std::int64_t first = 0;
  for (std::int64_t p = 0; p < 1024; ++p) first += stream.draw(p).source == 0;
  EXPECT_NEAR(static_cast<double>(first), 768, 1);
}

TEST_F(Streams, FillInTheMiddleKeepsEachDocument) {
  const auto lengths = mixed_lengths(400);
  const auto documents = documents_of(lengths);
  StreamOptions o = options(128);
  o.fim_rate = 0.3;
  o.fim = kMarks;
  Stream stream = make({write("a", documents)}, o);
  std::int64_t examples = 0, pieces = 0;
  std::vector<std::int32_t> all;
  for (std::int64_t p = 0; p < stream.sources()[0].sequences_in_epoch(0); ++p) {
    const auto t = tokens_of(draw(stream, p, 1));
    for (std::size_t i = 0; i < t.size(); ++i) {
      if (t[i] != kMarks.begin) {
        if (t[i] != kEos) all.push_back(t[i]);
        pieces += t[i] == kEos;
        continue;
      }
      const auto at = [&](std::int32_t id) { return std::find(t.begin() + static_cast<std::ptrdiff_t>(i), t.end(), id); };
      const auto hole = at(kMarks.hole), end = at(kMarks.end), eos = at(kEos);
      ASSERT_TRUE(hole < end && end < eos && eos < t.end());  // eos only at the very end
      std::vector<std::int32_t> joined(t.begin() + static_cast<std::ptrdiff_t>(i) + 1, hole);
      joined.insert(joined.end(), end + 1, eos);
      joined.insert(joined.end(), hole + 1, end);
      // Consecutive ids: the parts are in their places.
      for (std::size_t k = 1; k < joined.size(); ++k) ASSERT_EQ((joined[k] - joined[k - 1] + 900) % 900, 1);
      all.insert(all.end(), joined.begin(), joined.end());
      i = static_cast<std::size_t>(eos - t.begin());
      ++examples;
      ++pieces;
    }
  }
  std::sort(all.begin(), all.end());
  auto expected = sorted_tokens(documents);
  expected.erase(std::remove(expected.begin(), expected.end(), kEos), expected.end());
  EXPECT_EQ(all, expected);
  EXPECT_NEAR(static_cast<double>(examples), 0.3 * static_cast<double>(pieces), 5 * std::sqrt(0.21 * static_cast<double>(pieces)));
}

TEST_F(Streams, SplitTokensKeepTheBytes) {
  // Ids 5 = 6 + 7 ("x\n" = "x" + "\n").
  std::vector<std::string> bytes(kVocab);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = fmt::format("<{}>", i);
  bytes[5] = ".\n";
  bytes[6] = ".";
  bytes[7] = "\n";
  auto documents = documents_of(mixed_lengths(200));
  std::int64_t joined = 0;
  for (auto& d : documents)
    for (std::size_t k = 0; k + 1 < d.size(); k += 3) {
      d[k] = 5;
      ++joined;
    }
  StreamOptions o = options(100);
  o.splits = SplitTable(bytes);
  o.token_split_rate = 0.25;
  Stream stream = make({write("a", documents)}, o);
  auto all = sorted_epoch(stream, 0);
  const auto count = [&](std::int32_t id) { return std::count(all.begin(), all.end(), id); };
  EXPECT_EQ(count(6), count(7));
  EXPECT_EQ(count(5) + count(6), joined);
  EXPECT_NEAR(static_cast<double>(count(6)), 0.25 * static_cast<double>(joined), 5 * std::sqrt(0.1875 * static_cast<double>(joined)));
  std::replace(all.begin(), all.end(), 6, 5);
  all.erase(std::remove(all.begin(), all.end(), 7), all.end());
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, sorted_tokens(documents));
}

TEST_F(Streams, SplittingAndMarksTogetherFitTheSequence) {
  std::vector<std::string> bytes(kVocab, "a");
  bytes[5] = ".\n";
  bytes[6] = ".";
  bytes[7] = "\n";
  StreamOptions o = options(1);
  o.splits = SplitTable(bytes);
  o.token_split_rate = 1;
  o.fim_rate = 1;
  o.fim = kMarks;
  const std::vector<std::vector<std::int32_t>> documents{std::vector<std::int32_t>(1000, 5), {5}, {kEos}, {}, {5, 5, kEos}};
  for (const std::int64_t seq_len : {1, 2, 5, 6, 7, 30}) {
    o.seq_len = seq_len;
    Stream stream = make({write("a", documents)}, o);
    for (const std::int64_t epoch : {0, 1}) {
      const auto all = sorted_epoch(stream, epoch);
      EXPECT_EQ(std::count(all.begin(), all.end(), 6), 1003) << seq_len;
      EXPECT_EQ(std::count(all.begin(), all.end(), 7), 1003) << seq_len;
      EXPECT_EQ(std::count(all.begin(), all.end(), 5), 0) << seq_len;
    }
  }
}

TEST_F(Streams, ValidationScoresEachTokenOnce) {
  const auto documents = documents_of(mixed_lengths(50));
  std::vector<std::int32_t> flat;
  for (const auto& d : documents) flat.insert(flat.end(), d.begin(), d.end());
  const std::string path = write("v", documents);
  for (const std::int64_t seq_len : {1, 7, 64, 100000}) {
    const Windows windows(path, seq_len, kVocab, kEos);
    const auto n = static_cast<std::size_t>((windows.count() + 2) * seq_len);
    std::vector<std::int32_t> inputs(n), targets(n), scored;
    windows.fill(0, inputs, targets);
    for (std::size_t i = 0; i < n; ++i) {
      if (targets[i] < 0) continue;
      ASSERT_EQ(inputs[i], scored.empty() ? kEos : scored.back());
      scored.push_back(targets[i]);
    }
    EXPECT_EQ(scored, flat) << seq_len;
    // A later batch begins where the earlier one ended.
    std::vector<std::int32_t> in(static_cast<std::size_t>(seq_len)), out(in.size());
    for (std::int64_t w = 0; w < windows.count(); w += std::max<std::int64_t>(1, windows.count() / 9)) {
      windows.fill(w, in, out);
      EXPECT_TRUE(std::equal(in.begin(), in.end(), inputs.begin() + w * seq_len));
      EXPECT_TRUE(std::equal(out.begin(), out.end(), targets.begin() + w * seq_len));
    }
  }
}

TEST_F(Streams, ChangedDataHaveAnotherFingerprint) {
  auto documents = documents_of(mixed_lengths(50));
  const auto of = [&](const std::string& name) { return fingerprint(formats::TokenFile(write(name, documents))); };
  const std::string before = of("a");
  EXPECT_EQ(of("b"), before);  // the name does not count
  ++documents[25][3];
  EXPECT_NE(of("c"), before);
  --documents[25][3];
  documents.emplace_back();
  EXPECT_NE(of("d"), before);
}

TEST_F(Streams, RefusesWhatCannotBeTrainedOn) {
  using core::Exit;
  using finback::testing::expect_error;
  const std::string good = write("good", documents_of({100}));
  expect_error(Exit::usage, {"data.train"}, [&] { make({}, options(16)); });
  expect_error(Exit::io, {"missing"}, [&] { make({folder_ / "missing"}, options(16)); });
  expect_error(Exit::bad_input, {"no tokens"}, [&] { make({write("empty", {})}, options(16)); });
  expect_error(Exit::bad_input, {"no tokens"}, [&] { make({write("empty2", {{}, {}})}, options(16)); });
  expect_error(Exit::bad_input, {"no tokens"}, [&] { Windows(write("empty3", {{}}), 16, kVocab, kEos); });
  expect_error(Exit::usage, {"data.weights"}, [&] { make({good}, options(16), {1, 2}); });
  expect_error(Exit::usage, {"data.weights"}, [&] { make({good}, options(16), {-1}); });
  expect_error(Exit::usage, {"data.weights"}, [&] { make({good}, options(16), {std::numeric_limits<double>::quiet_NaN()}); });
  expect_error(Exit::usage, {"data.seq_len"}, [&] { make({good}, options(0)); });
  StreamOptions o = options(16);
  o.fim_rate = 0.1;
  expect_error(Exit::usage, {"data.fim_rate"}, [&] { make({good}, o); });  // the tokenizer has no marks
  o.fim = kMarks;
  o.fim_rate = 1.5;
  expect_error(Exit::usage, {"data.fim_rate"}, [&] { make({good}, o); });
  o = options(16);
  o.vocab_size = 50;  // ids in the file are larger
  Stream stream = make({good}, o);
  expect_error(Exit::bad_input, {"vocabulary has 50"}, [&] { draw(stream, 0, 7); });
  std::vector<std::int32_t> in(7 * 16), out(in.size());
  expect_error(Exit::bad_input, {"vocabulary has 50"}, [&] { Windows(good, 16, 50, kEos).fill(0, in, out); });
}

TEST_F(Streams, OneTokenIsEnough) {
  Stream stream = make({write("one", {{42}})}, options(8));
  const Batch b = draw(stream, 5, 1);
  EXPECT_EQ(b.inputs[0], 42);
  EXPECT_EQ(std::count(b.targets.begin(), b.targets.end(), -1), 8);
}

}  // namespace
}  // namespace finback::data
