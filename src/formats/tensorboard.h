// TensorBoard's event files, written without its library: records of protobuf messages of which six fields are used.
//
//   record    u64 length · u32 masked CRC-32C of these 8 bytes · the message · u32 masked CRC-32C of the message
//   Event     1 wall_time double · 2 step int64 · 3 file_version string · 5 summary · 7 session_log
//   Summary   1 value { 1 tag string · 2 simple_value float }            SessionLog  1 status (1 = START)
// Source: tensorflow/core/util/event.proto, framework/summary.proto, lib/io/record_writer.h.
#pragma once

#include "core/file.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace finback::formats {

std::uint32_t crc32c(std::string_view bytes);

struct Scalar {
  std::string_view tag;  // "loss/train"; a slash groups
  double value = 0;
};

class EventWriter {
 public:
  // Makes a new file events.out.tfevents.SECONDS.HOST.PID.N in `folder`. A run that goes on from a checkpoint gives the first step that
  // it will write: TensorBoard then drops what earlier files say of this step and later ones. Nothing is appended to a file
  // of an earlier process, whose last record may have been cut. Throws Error(io).
  explicit EventWriter(const std::string& folder, std::int64_t first_step = 0);

  // One event, written at once with one write(2).
  void add(std::int64_t step, std::span<const Scalar> scalars);
  const std::string& path() const { return path_; }

 private:
  void record(std::string_view event);
  std::string path_;
  std::unique_ptr<core::AppendFile> file_;
};

}  // namespace finback::formats
