#include "convert/shard_writer.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

namespace finback::convert {
namespace {

using core::DType;

constexpr std::int64_t kElements = 1 << 19;    // of a piece, about
constexpr std::int64_t kMaxColumns = 1 << 15;  // wider rows are cut, at a whole tile

std::vector<Piece> pieces_of(const Plan& plan, const Shard& shard) {
  std::vector<Piece> pieces;
  for (const Part& part : shard.parts) {
    const Weight& w = plan.weights[part.weight];
    const bool tiled = w.from == DType::e4m3 || w.to == DType::e4m3;
    const std::int64_t cols = std::min(w.cols, kMaxColumns), unit = tiled ? kernels::kTile : 1;
    const std::int64_t rows = unit * std::max<std::int64_t>(1, kElements / std::max<std::int64_t>(1, unit * cols));
    for (std::int64_t r = 0; r < w.rows; r += rows)
      for (std::int64_t c = 0; c < w.cols; c += cols)
        pieces.push_back({&w, &part, {r, std::min(rows, w.rows - r), c, std::min(cols, w.cols - c)}});
  }
  return pieces;
}

}  // namespace

ShardWriter::ShardWriter(const Plan& plan, const Source& source, const Record* record, core::Team& team) : plan_(plan), team_(team) {
  for (int i = 0; i < team.threads(); ++i) workers_.push_back(std::make_unique<Worker>(source, record));
}

void ShardWriter::write(const std::string& path, const Shard& shard, const Listener& listener) {
  core::AtomicFile file(path);
  file.write_at(shard.head.text.data(), shard.head.text.size(), 0);
  const std::vector<Piece> pieces = pieces_of(plan_, shard);
  std::vector<FormatError> errors(pieces.size());
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::exception_ptr failure;
  core::parallel_for(team_, static_cast<std::int64_t>(pieces.size()), [&](std::int64_t task, int thread) {
    if (failed) return;
    try {
      const Piece& p = pieces[static_cast<std::size_t>(task)];
      errors[static_cast<std::size_t>(task)] = workers_[static_cast<std::size_t>(thread)]->convert(p, file);
      bytes += static_cast<std::uint64_t>(p.block.rows * p.block.cols * (core::size_of(p.weight->from) + core::size_of(p.weight->to)));
      if (thread == 0) listener.progress(static_cast<double>(task) / static_cast<double>(pieces.size()), bytes);
    } catch (...) {  // an exception may not leave a task
      std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      failed = true;
    }
  });
  if (failure) std::rethrow_exception(failure);

  // Added in the order of the pieces: the same sums whoever made them.
  std::vector<WeightError> of_weights;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const Piece& p = pieces[i];
    if (errors[i].blocks == 0 || !p.part->data) continue;
    if (of_weights.empty() || of_weights.back().name != p.weight->name) of_weights.push_back({p.weight->name, {}});
    of_weights.back().error.add(errors[i]);
  }
  listener.written(of_weights);
  file.commit();
}

}  // namespace finback::convert
