#include "infer/page_pool.h"

#include "core/error.h"
#include "kernels/kernels.h"

#include <algorithm>
#include <bit>

namespace finback::infer {

using kernels::kPage;

PagePool::PagePool(std::int64_t pages)
    : pages_(static_cast<std::size_t>(pages)),
      tokens_(static_cast<std::size_t>(pages * kPage)),
      buckets_(std::bit_ceil(static_cast<std::size_t>(2 * pages)), kNone),
      available_(pages) {
  free_.reserve(pages_.size());
  for (std::int64_t p = pages; p-- > 0;) free_.push_back(static_cast<Page>(p));
}

PagePool::Page PagePool::take() {
  FB_CHECK(available_ > 0, "no page is left");
  Page page = oldest_;
  if (!free_.empty()) {
    page = free_.back();
    free_.pop_back();
  } else {
    unlink(page);
    forget(page);
  }
  at(page).holders = 1;
  --available_;
  return page;
}

void PagePool::hold(Page page) {
  if (at(page).holders++ > 0) return;
  unlink(page);  // only published pages are found without a holder
  --available_;
}

void PagePool::release(Page page) {
  Entry& e = at(page);
  FB_CHECK(e.holders > 0, "page {} is held by nobody", page);
  if (--e.holders > 0) return;
  ++available_;
  if (e.prefix == kStart) return free_.push_back(page);
  e.older = newest_;
  (newest_ == kNone ? oldest_ : at(newest_).newer) = page;
  newest_ = page;
}

PagePool::Page PagePool::find(Prefix before, std::span<const std::int32_t> wanted) const {
  for (Page p = buckets_[bucket(before, wanted)]; p != kNone; p = at(p).next)
    if (at(p).before == before && std::ranges::equal(tokens(p), wanted)) return p;
  return kNone;
}

PagePool::Prefix PagePool::publish(Page page, Prefix before, std::span<const std::int32_t> of) {
  if (const Page known = find(before, of); known != kNone) return at(known).prefix;
  Entry& e = at(page);
  e.before = before;
  e.prefix = ++last_prefix_;
  std::ranges::copy(of, tokens(page).begin());
  Page& first = buckets_[bucket(before, of)];
  e.next = first;
  first = page;
  return e.prefix;
}

std::span<std::int32_t> PagePool::tokens(Page page) { return std::span(tokens_).subspan(static_cast<std::size_t>(page * kPage), kPage); }
std::span<const std::int32_t> PagePool::tokens(Page page) const {
  return std::span(tokens_).subspan(static_cast<std::size_t>(page * kPage), kPage);
}

std::size_t PagePool::bucket(Prefix before, std::span<const std::int32_t> of) const {
  std::uint64_t h = before * 0x9e3779b97f4a7c15u;  // multiply and shift; equal buckets cost a comparison, no more
  for (const std::int32_t t : of) {
    h = (h ^ static_cast<std::uint32_t>(t)) * 0xff51afd7ed558ccdu;
    h ^= h >> 29;
  }
  return static_cast<std::size_t>(h) & (buckets_.size() - 1);
}

void PagePool::forget(Page page) {
  Page* link = &buckets_[bucket(at(page).before, tokens(page))];
  while (*link != page) link = &at(*link).next;
  *link = at(page).next;
  at(page) = {};
}

void PagePool::unlink(Page page) {
  Entry& e = at(page);
  (e.older == kNone ? oldest_ : at(e.older).newer) = e.newer;
  (e.newer == kNone ? newest_ : at(e.newer).older) = e.older;
  e.older = e.newer = kNone;
}

}  // namespace finback::infer
