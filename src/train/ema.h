// A moving average of the masters, w̄ ← d·w̄ + (1 − d)·w after each step, kept in the host's memory and made by a thread of its own while the
// next step's gradients are computed [V3 §3.2.3]. Over ranks each averages its share.
#pragma once

#include "core/background.h"
#include "model/params.h"

namespace finback::train {

class Ema {
 public:
  // Of masters (FP32 or FP64) with the slabs of `list`, which outlive it. decay: 0 … 1.
  Ema(const model::ParameterList& list, const model::SlabBuffers& masters, double decay);
  static std::int64_t bytes_needed(const model::ParameterList& list, core::DType dtype);

  void restart();                        // the average is the masters
  void start() { background_.start(); }  // takes a step with the masters as they are …
  void wait() { background_.wait(); }    // … which stay so until this returns; values are read, or written, after it

  const model::SlabBuffers& values() const { return values_; }

 private:
  void step();

  const model::SlabBuffers& masters_;
  const double decay_;
  core::Arena arena_;
  model::SlabBuffers values_;
  core::Background background_;
};

}  // namespace finback::train
