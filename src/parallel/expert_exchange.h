// The exchange of an expert group's tokens (model/spread.h) over a communicator.
#pragma once

#include "comm/communicator.h"
#include "model/spread.h"

#include <array>

namespace finback::parallel {

class ExpertExchange final : public model::ExpertExchange {
 public:
  explicit ExpertExchange(comm::Communicator& group);

  int ranks() const override { return group_.size(); }
  void tell(std::span<const std::int64_t> sent, std::span<std::int64_t> received) override;
  void start(Stream stream, core::ConstMat send, std::span<const std::int64_t> rows_to, core::Mat receive,
             std::span<const std::int64_t> rows_from) override;
  void wait(Stream stream) override;

 private:
  comm::Communicator& group_;
  std::array<std::vector<comm::Request>, 2> under_way_;
  std::vector<std::int64_t> to_, from_;  // bytes
};

}  // namespace finback::parallel
