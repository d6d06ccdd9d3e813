// Where a layer's buffers live: what the activation store (precision.h) makes of them.
#pragma once

#include "model/linear.h"

namespace finback::model {

struct Stores {
  core::Arena& kept;   // from forward to backward
  core::Arena& again;  // what backward computes again, one block at a time; `kept` itself when nothing is
  core::Arena& work;   // needed during a forward call alone
  Precision precision;
  ActivationStorage storage;
  bool spread = false;  // experts lie on several ranks: what belongs to them is taken when it arrives (spread.h)

  bool keeps_codes() const { return storage == ActivationStorage::fp8 || storage == ActivationStorage::paper; }
  // An input of linear layers alone, which backward makes again or keeps as the layers read it.
  LinearInput take_input(std::int64_t rows, std::int64_t cols) const {
    const bool codes_are_enough = precision.fp8 && storage == ActivationStorage::full;
    return model::take_input(codes_are_enough ? work : again, again, precision, rows, cols);
  }
};

}  // namespace finback::model
