// The fuzz targets' main where there is no libFuzzer: TARGET CORPUS INPUTS reads every file of the folder CORPUS, then INPUTS
// mutations of them. What is read depends on the corpus alone, so that a failing run fails again. The input that ends the
// program is kept in the working folder, and TARGET FILE reads that one.
#include "core/file.h"

#include <sanitizer/common_interface_defs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr unsigned kSecondsPerInput = 10;
constexpr std::size_t kLongest = 4096;  // of a mutation
constexpr std::uint64_t kLongestFile = 1 << 20;

std::string input;  // the one being read
std::string crash_file;

void keep_input() {
  std::ofstream(crash_file, std::ios::binary).write(input.data(), static_cast<std::streamsize>(input.size()));
  std::fprintf(stderr, "the input is kept: %s\n", crash_file.c_str());
}

void keep_input_and_end(int signal) {
  std::fprintf(stderr, "%s\n", signal == SIGALRM ? "an input takes too long" : "aborted");
  keep_input();
  std::_Exit(1);
}

void read_input() {
  ::alarm(kSecondsPerInput);
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

class Mutator {
 public:
  explicit Mutator(const std::vector<std::string>& corpus) : corpus_(corpus) {}

  // A file of the corpus after one to eight changes.
  std::string next() {
    std::string s = any(corpus_);
    for (std::size_t n = 1 + below(8); n > 0; --n) change(s);
    if (s.size() > kLongest) s.resize(kLongest);
    return s;
  }

 private:
  std::size_t below(std::size_t n) { return random_() % n; }
  template <class Range>
  typename Range::const_reference any(const Range& range) {
    return range[below(range.size())];
  }

  void change(std::string& s) {
    const std::size_t at = below(s.size() + 1), length = std::min(s.size() - at, below(below(4) == 0 ? s.size() + 1 : 16));
    switch (below(9)) {
      case 0:
        s.insert(at, 1, static_cast<char>(below(256)));
        break;
      case 1:
        s.erase(at, length);
        break;
      case 2:
        s.insert(below(s.size() + 1), s.substr(at, length));
        break;
      case 3:
        s.resize(at);
        break;
      case 4:
        splice(s, at, any(corpus_));
        break;
      case 5:
        number_word(s, at);
        break;
      case 6:
        number_text(s, at);
        break;
      case 7:
        if (at < s.size()) s[at] = static_cast<char>(below(256));
        break;
      default:
        if (at < s.size()) s[at] = static_cast<char>(s[at] ^ 1 << below(8));
        break;
    }
  }

  void splice(std::string& s, std::size_t at, const std::string& other) {
    const std::size_t from = below(other.size() + 1);
    s.insert(at, other, from, below(other.size() - from + 1));
  }

  // Overwrites two, four or eight bytes by a number at an end of its range, little-endian as in all formats here.
  void number_word(std::string& s, std::size_t at) {
    static constexpr std::array<std::uint64_t, 9> kEnds{0, 1, 0x7f, 0xff, 0x7fff, 0x7fffffff, 0xffffffff, 0x7fffffffffffffff, ~0ull};
    const std::uint64_t value = any(kEnds) - below(2);
    const std::size_t bytes = std::size_t{2} << below(3);
    if (s.size() - at >= bytes) std::memcpy(s.data() + at, &value, bytes);
  }

  // Replaces the first number in digits after `at`.
  void number_text(std::string& s, std::size_t at) {
    static constexpr std::array<const char*, 12> kNumbers{"0",
                                                          "-1",
                                                          "1.5",
                                                          "1e30",
                                                          "-1e999",
                                                          "nan",
                                                          "2147483647",
                                                          "4294967296",
                                                          "9223372036854775807",
                                                          "9223372036854775808",
                                                          "18446744073709551615",
                                                          "99999999999999999999"};
    const std::size_t begin = s.find_first_of("0123456789", at);
    if (begin == std::string::npos) return;
    s.replace(begin, std::min(s.find_first_not_of("0123456789", begin), s.size()) - begin, any(kNumbers));
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_{1};
};

std::vector<std::string> read_corpus(const std::string& path) {
  std::vector<std::string> names, files;
  for (const auto& entry : std::filesystem::directory_iterator(path)) names.push_back(entry.path().string());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) files.push_back(finback::core::read_file(name, kLongestFile));
  return files;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 3) {
    std::fprintf(stderr, "usage: %s CORPUS INPUTS | FILE\n", arguments[0]);
    return 2;
  }
  crash_file = std::filesystem::path(arguments[0]).filename().string() + ".crash";
  __sanitizer_set_death_callback(keep_input);
  std::signal(SIGABRT, keep_input_and_end);
  std::signal(SIGALRM, keep_input_and_end);
  if (count == 2) {
    input = finback::core::read_file(arguments[1], kLongestFile);
    read_input();
    return 0;
  }
  const std::vector<std::string> corpus = read_corpus(arguments[1]);
  const long inputs = std::atol(arguments[2]);
  for (const std::string& file : corpus) {
    input = file;
    read_input();
  }
  Mutator mutator(corpus);
  for (long i = 0; i < inputs && !corpus.empty(); ++i) {
    input = mutator.next();
    read_input();
  }
  std::printf("%zu files and %ld mutations\n", corpus.size(), inputs);
  return corpus.empty() ? 1 : 0;
}
