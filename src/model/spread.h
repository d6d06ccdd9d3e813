// A layer's routed experts spread over ranks [V3 §3.2.2]: of R ranks, rank r holds experts r · E/R … (r + 1) · E/R − 1.
//
//   forward   x and the gate's weights travel to the experts, y comes back
//   backward  dy travels, dx and the gate's weights' gradients come back
//
// A rank's slots are ordered by expert and so by rank. Experts compute one sender's slots after the other: a row's result depends on
// nothing else, and the weights' gradients add one micro-batch of each rank in rank order. So one sender's room is enough for what is
// needed in between, however uneven the load.
#pragma once

#include "model/experts.h"

#include <vector>

namespace finback::model {

class ExpertExchange {
 public:
  enum Stream { forward, backward };
  virtual ~ExpertExchange() = default;
  virtual int ranks() const = 0;
  // sent [E]: slots for each expert; received [R · E/R]: from each rank, those for the experts here.
  virtual void tell(std::span<const std::int64_t> sent, std::span<std::int64_t> received) = 0;
  // rows_to[r] rows of `send` go to rank r, rows_from[r] of `receive` come from it, both in rank order.
  virtual void start(Stream stream, core::ConstMat send, std::span<const std::int64_t> rows_to, core::Mat receive,
                     std::span<const std::int64_t> rows_from) = 0;
  // For all that was started on the stream.
  virtual void wait(Stream stream) = 0;
};

// The slots of one block of a micro-batch at the experts here, from forward to backward_weight.
struct Senders {
  std::vector<ExpertRows> rows;        // [ranks]
  std::vector<std::int64_t> to, from;  // [ranks] slots sent and received
  core::Mat y_SD;                      // of all of them; forward only
  explicit Senders(int ranks) : rows(static_cast<std::size_t>(ranks)), to(rows.size()), from(rows.size()) {}
};
struct SenderGradients {
  std::vector<ExpertRowGradients> rows;  // [ranks]
  core::Mat dx_SD, dweight_1S;           // of all of them
};

// How many slots arrive is known when they do: both arenas grow where a layer is busier than expected.
struct Spread {
  ExpertExchange& exchange;
  core::Arena& kept;           // until backward_weight
  core::Arena& work;           // until the block is done or, where weights' gradients wait, all are
  bool waits = false;          // they do
  std::span<Senders> senders;  // [blocks of the model]

  Senders& of(std::int64_t layer) const { return senders[static_cast<std::size_t>(layer)]; }
};

// Bytes of Spread's arenas for `slots` slots of a layer.
struct SlotBytes {
  std::int64_t kept = 0, forward = 0, backward = 0;
};
SlotBytes slot_bytes(const ModelConfig& config, const Precision& precision, ActivationStorage storage, int ranks, std::int64_t slots);

// Forward: what leaves in dispatch, and what the experts make of all that arrives, which goes back to y. offsets: E + 1, of the slots here.
void spread_dispatch(const Run& run, std::int64_t layer, std::span<const std::int64_t> offsets, const LinearInput& x_SD,
                     core::Mat slot_weight_1S);
void spread_experts(const Run& run, const BlockSlabs& slabs, std::int64_t layer, core::Mat y_SD);
// Backward: dx and dweight of the slots here come back.
void spread_combine_backward(const Run& run, std::int64_t layer, const LinearInput& dy_SD, SenderGradients& grads);
void spread_experts_backward(const Run& run, const BlockSlabs& slabs, std::int64_t layer, SenderGradients& grads, core::Mat dx_SD,
                             core::Mat dweight_1S);
void spread_backward_weight(const Run& run, const BlockSlabs& slabs, std::int64_t layer, const SenderGradients& grads);

}  // namespace finback::model
