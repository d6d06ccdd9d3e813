// A pre-tokenizer cuts a text into the pieces within which byte pairs are merged: a chain of splits, each applied to
// the pieces of the one before. The published chains are recognised and run by one scanner in one pass.
#pragma once

#include "text/scan.h"

#include <boost/json/value.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace finback::text {

class PreTokenizer {
 public:
  static PreTokenizer deepseek_v3();
  static PreTokenizer kimi();
  // From the field pre_tokenizer of a tokenizer.json. Throws Error(bad_input) that names what is not supported.
  static PreTokenizer from_json(const boost::json::value& value, std::string_view where);
  boost::json::value to_json() const;

  // Calls piece(begin, end) for each piece of the text in order; the pieces join to the text.
  template <class Piece>
  void split(std::string_view text, Piece&& piece) const {
    const char* p = text.data();
    const char* const end = p + text.size();
    const auto scan = [&](auto next) {
      while (p < end) {
        const char* const q = next(p, end);
        piece(p, q);
        p = q;
      }
    };
    switch (scanner_) {
      case Scanner::deepseek_v3:
        return scan(next_piece_deepseek_v3);
      case Scanner::kimi:
        return scan(next_piece_kimi);
      case Scanner::chain:
        break;
    }
    for (const char* const q : split_by_chain(text)) {
      piece(p, q);
      p = q;
    }
  }

 private:
  enum class Scanner { deepseek_v3, kimi, chain };
  struct Stage {
    enum class Kind { run, words, kimi, digits, digit_runs } kind;
    std::string pattern;  // of a Split
    RunPattern run;       // run, digits, digit_runs
    const char* next_piece(const char* p, const char* end) const;
  };
  static Stage split_stage(std::string_view pattern, std::string_view where);
  static Stage digits_stage(bool individual);
  explicit PreTokenizer(std::vector<Stage> stages);
  std::vector<const char*> split_by_chain(std::string_view text) const;  // the end of each piece

  std::vector<Stage> stages_;
  Scanner scanner_ = Scanner::chain;
  friend struct PreTokenizerTest;
};

}  // namespace finback::text
