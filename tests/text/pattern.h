// A regular expression in a few lines, for tests: nodes match greedily and backtrack, exactly as the patterns are written
// in the tokenizers' files. Exponential at worst: for short texts only.
#pragma once

#include "text/unicode.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace finback::text::pattern {

struct Text {
  std::vector<std::uint32_t> codes;
  std::vector<std::size_t> offsets;  // of each code point, and of the end
  explicit Text(std::string_view bytes) {
    for (std::size_t i = 0; i < bytes.size();) {
      const CodePoint c = decode_utf8(bytes.data() + i, bytes.data() + bytes.size());
      codes.push_back(c.code);
      offsets.push_back(i);
      i += c.length;
    }
    offsets.push_back(bytes.size());
  }
};

// match(text, from, end of the text, what must match afterwards)
using Then = std::function<bool(std::size_t)>;
using Node = std::function<bool(const Text&, std::size_t, std::size_t, const Then&)>;
struct Set {
  std::function<bool(std::uint32_t)> has;
  bool operator()(std::uint32_t c) const { return has(c); }
};

inline Set of(Classes classes) {
  return {[=](std::uint32_t c) { return (ClassTable::get().of(c) & classes) != 0; }};
}
inline Set operator||(Set a, Set b) {
  return {[=](std::uint32_t c) { return a(c) || b(c); }};
}
inline Set operator&&(Set a, Set b) {
  return {[=](std::uint32_t c) { return a(c) && b(c); }};
}
inline Set operator!(Set a) {
  return {[=](std::uint32_t c) { return !a(c); }};
}
inline Set range(std::uint32_t first, std::uint32_t last) {
  return {[=](std::uint32_t c) { return c >= first && c <= last; }};
}
inline Set one_of(std::string_view ascii) {
  return {[=](std::uint32_t c) { return c < 128 && ascii.find(static_cast<char>(c)) != ascii.npos; }};
}

inline Node one(const Set& set) {
  return [=](const Text& t, std::size_t i, std::size_t end, const Then& then) { return i < end && set(t.codes[i]) && then(i + 1); };
}
inline Node repeat(const Set& set, std::size_t least, std::size_t most = 1000) {
  return [=](const Text& t, std::size_t i, std::size_t end, const Then& then) {
    std::size_t n = 0;
    while (n < most && i + n < end && set(t.codes[i + n])) ++n;
    for (;; --n) {
      if (n >= least && then(i + n)) return true;
      if (n == 0) return false;
    }
  };
}
inline Node seq(std::vector<Node> nodes) {
  return [=](const Text& t, std::size_t i, std::size_t end, const Then& then) {
    std::function<bool(std::size_t, std::size_t)> go = [&](std::size_t k, std::size_t at) -> bool {
      return k == nodes.size() ? then(at) : nodes[k](t, at, end, [&, k](std::size_t next) { return go(k + 1, next); });
    };
    return go(0, i);
  };
}
inline Node alt(std::vector<Node> nodes) {
  return [=](const Text& t, std::size_t i, std::size_t end, const Then& then) {
    for (const Node& n : nodes)
      if (n(t, i, end, then)) return true;
    return false;
  };
}
inline Node maybe(Node node) {
  return [=](const Text& t, std::size_t i, std::size_t end, const Then& then) { return node(t, i, end, then) || then(i); };
}
inline Node not_before(const Set& set) {
  return [=](const Text& t, std::size_t i, std::size_t end, const Then& then) { return !(i < end && set(t.codes[i])) && then(i); };
}
inline Node line_end() {
  return [=](const Text& t, std::size_t i, std::size_t end, const Then& then) { return (i == end || t.codes[i] == '\n') && then(i); };
}
inline Node word(std::string_view lower) {  // in any case; U+017F folds to s
  std::vector<Node> nodes;
  for (const char c : lower)
    nodes.push_back(one({[=](std::uint32_t x) {
      return x == static_cast<unsigned char>(c) || (c >= 'a' && x == static_cast<unsigned char>(c - 32)) || (c == 's' && x == 0x17F);
    }}));
  return seq(nodes);
}

// "Isolated" splits, one within the pieces of the other: the ends of the pieces in code points.
inline std::vector<std::size_t> split(const Text& text, const std::vector<Node>& chain) {
  std::vector<std::size_t> ends{text.codes.size()};
  if (text.codes.empty()) return {};
  for (const Node& node : chain) {
    std::vector<std::size_t> finer;
    std::size_t begin = 0;
    for (const std::size_t end : ends) {
      std::size_t gap = begin;
      for (std::size_t i = begin; i < end;) {
        std::size_t match = i;
        node(text, i, end, [&](std::size_t e) { return e > i ? (match = e, true) : false; });
        if (match == i) {
          ++i;
          continue;
        }
        if (i > gap) finer.push_back(i);
        finer.push_back(match);
        gap = i = match;
      }
      if (gap < end) finer.push_back(end);
      begin = end;
    }
    ends = finer;
  }
  return ends;
}

}  // namespace finback::text::pattern
