// One process that forms a step's sums as the ranks of a layout would (docs/parallel.md), without any of what they need for it: no stages,
// no exchange, no list played. Each micro-batch is computed whole; what it adds goes where the layout says. The witness of the ranks' bits.
#pragma once

#include "model/transformer.h"
#include "parallel/part.h"
#include "train/run_config.h"

#include <functional>

namespace finback::train {

class AsLayout {
 public:
  AsLayout(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list);
  // Of the gradients of all lanes; what is kept for the embedding's comes on top.
  static std::int64_t bytes_needed(const RunConfig& run, const model::ParameterList& list);

  // `pass` without gradients; the i-th micro-batch of a data-parallel rank. The sum goes to `gradients` and `sums`, whatever they hold.
  using MicroBatches = std::function<model::MicroBatch(int dp, int i)>;
  void compute(model::Transformer& transformer, const model::Pass& pass, int micro_batches, const MicroBatches& batch,
               const model::SlabBuffers& gradients, model::LossSums& sums);

 private:
  // One data-parallel rank's micro-batches in one direction of the pipeline.
  struct Lane {
    model::SlabBuffers gradients;  // experts': those of its expert group, into which all its members add
    model::LossSums sums;
  };
  // A gradient of embedded rows.
  struct EmbeddedRows {
    bool mtp;
    std::vector<std::byte> gradient;
    std::vector<std::int32_t> ids;
  };

  int directions() const { return kind_ == parallel::ScheduleKind::dualpipe ? 2 : 1; }
  std::size_t lane(int dp, int direction) const { return static_cast<std::size_t>(dp * directions() + direction); }
  std::vector<std::size_t> lanes_of(int stage, int step) const;
  void add_embedding(const model::Pass& pass, int micro_batches, core::Mat total);

  const model::ModelConfig& config_;
  const model::ParameterList& list_;
  const parallel::Mesh mesh_;
  const parallel::ScheduleKind kind_;
  const parallel::Stages stages_;
  core::Arena arena_;
  std::vector<Lane> lanes_;
  core::Mat embedding_of_a_rank_;
  std::vector<std::vector<EmbeddedRows>> embedded_;  // [dp · micro_batches] in the order of a backward
};

}  // namespace finback::train
