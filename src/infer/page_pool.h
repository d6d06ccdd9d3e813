// The pages of the latent cache: who holds each, and which hold the latents of a prefix that another request may begin with.
//
// A full page is known by its tokens and by the prefix before it, compared in full: a hash only finds the candidates, so that no request
// can be given another's latents. Pages that nobody holds stay known until their room is needed, the least recently used first.
// Nothing is allocated after construction; one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace finback::infer {

class PagePool {
 public:
  using Page = std::int32_t;
  using Prefix = std::uint64_t;  // names the tokens from a sequence's start to the end of a published page
  static constexpr Page kNone = -1;
  static constexpr Prefix kStart = 0;  // of a sequence

  explicit PagePool(std::int64_t pages);

  std::int64_t pages() const { return static_cast<std::int64_t>(pages_.size()); }
  std::int64_t available() const { return available_; }  // held by nobody

  // A page for new latents, held once. available() must not be 0.
  Page take();
  void hold(Page page);
  void release(Page page);

  // The page that holds these kPage tokens after that prefix, or kNone.
  Page find(Prefix before, std::span<const std::int32_t> tokens) const;
  Prefix prefix(Page page) const { return at(page).prefix; }  // that ends with a published page
  // Makes a full page known. Returns the prefix that ends with it: where an equal page is known already, that one's.
  Prefix publish(Page page, Prefix before, std::span<const std::int32_t> tokens);

 private:
  struct Entry {
    std::int64_t holders = 0;
    Prefix before = kStart, prefix = kStart;  // prefix kStart: not published
    Page next = kNone;                        // of the same bucket
    Page older = kNone, newer = kNone;        // of those that are published and held by nobody
  };
  Entry& at(Page page) { return pages_[static_cast<std::size_t>(page)]; }
  const Entry& at(Page page) const { return pages_[static_cast<std::size_t>(page)]; }
  std::span<std::int32_t> tokens(Page page);
  std::span<const std::int32_t> tokens(Page page) const;
  std::size_t bucket(Prefix before, std::span<const std::int32_t> tokens) const;
  void forget(Page page);
  void unlink(Page page);

  std::vector<Entry> pages_;
  std::vector<std::int32_t> tokens_;  // of published pages
  std::vector<Page> buckets_, free_;
  Page oldest_ = kNone, newest_ = kNone;
  std::int64_t available_;
  Prefix last_prefix_ = kStart;
};

}  // namespace finback::infer
