// The exchange of an expert group's tokens (model/spread.h) over a communicator.
#pragma once

#include "comm/communicator.h"
#include "model/spread.h"

#include <array>

namespace finback::parallel {

// Of what was started, in seconds.
struct ExchangeTimes {
  double in_flight = 0;  // from start() until all has arrived
  double exposed = 0;    // of wait()
};

class ExpertExchange final : public model::ExpertExchange {
 public:
  explicit ExpertExchange(comm::Communicator& group);

  int ranks() const override { return group_.size(); }
  void tell(std::span<const std::int64_t> sent, std::span<std::int64_t> received) override;
  void start(Stream stream, core::ConstMat send, std::span<const std::int64_t> rows_to, core::Mat receive,
             std::span<const std::int64_t> rows_from) override;
  void wait(Stream stream) override;
  const ExchangeTimes& times() const { return times_; }

 private:
  struct UnderWay {
    comm::Request request;
    double since;
  };
  comm::Communicator& group_;
  std::array<std::vector<UnderWay>, 2> under_way_;
  ExchangeTimes times_;
  std::vector<std::int64_t> to_, from_;  // bytes
};

}  // namespace finback::parallel
