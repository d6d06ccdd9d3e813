// The text of an answer as its tokens come: whole code points, and nothing that may yet turn out to be a stop string.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace finback::infer {

class TextStream {
 public:
  // An answer ends before the first of the stop strings that appears in it. Empty ones are not strings to stop at.
  explicit TextStream(std::vector<std::string> stops = {});

  // Takes a token's bytes; returns what can be shown, until the next call. Nothing more is taken after a stop.
  std::string_view put(std::string_view bytes);
  // The rest, as it is.
  std::string_view end();
  bool stopped() const { return stopped_; }

 private:
  std::string_view show(std::size_t size);
  std::size_t held_back() const;

  std::vector<std::string> stops_;
  std::string pending_, shown_;
  bool stopped_ = false;
};

}  // namespace finback::infer
