#include "formats/tensorboard.h"

#include "tests/formats/temp_folder.h"

#include <cstring>
#include <filesystem>
#include <optional>

namespace finback::formats {
namespace {

using finback::testing::TempFolder;

// A reader of what TensorBoard reads, written from the formats' descriptions alone: CRCs bit by bit, fields by number.
std::uint32_t slow_masked_crc(std::string_view bytes) {
  std::uint32_t c = 0xffffffff;
  for (const char b : bytes) {
    c ^= static_cast<unsigned char>(b);
    for (int i = 0; i < 8; ++i) c = (c >> 1) ^ (0x82f63b78 & (0 - (c & 1)));
  }
  c = ~c;
  return ((c >> 15) | (c << 17)) + 0xa282ead8;
}

class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}
  // The next field: its number, and its payload as raw bytes (varints decoded into `number`).
  std::optional<int> next() {
    if (rest_.empty()) return std::nullopt;
    const std::uint64_t key = varint();
    switch (key & 7) {
      case 0:
        number = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        take(varint());
        break;
      case 5:
        take(4);
        break;
      default:
        ADD_FAILURE() << "wire type " << (key & 7);
    }
    return static_cast<int>(key >> 3);
  }
  template <class T>
  T as() const {
    T value;
    EXPECT_EQ(payload.size(), sizeof value);
    std::memcpy(&value, payload.data(), sizeof value);
    return value;
  }
  std::string_view payload;
  std::uint64_t number = 0;

 private:
  std::uint64_t varint() {
    std::uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
      const auto b = static_cast<unsigned char>(rest_.at(0));
      rest_.remove_prefix(1);
      v |= std::uint64_t{b & 0x7fu} << shift;
      if (!(b & 0x80)) return v;
    }
  }
  void take(std::uint64_t n) {
    payload = rest_.substr(0, n);
    EXPECT_EQ(payload.size(), n);
    rest_.remove_prefix(n);
  }
  std::string_view rest_;
};

struct Event {
  double wall_time = 0;
  std::int64_t step = 0;
  std::string file_version;
  std::uint64_t session_status = 0;
  std::vector<std::pair<std::string, float>> scalars;
};

std::vector<Event> read_events(const std::string& path) {
  const std::string bytes = core::read_file(path, 1 << 20);
  std::vector<Event> events;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    std::uint32_t crc = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    std::memcpy(&crc, bytes.data() + at + 8, 4);
    EXPECT_EQ(crc, slow_masked_crc({bytes.data() + at, 8}));
    const std::string_view data(bytes.data() + at + 12, length);
    std::memcpy(&crc, data.data() + length, 4);
    EXPECT_EQ(crc, slow_masked_crc(data));
    at += 16 + length;
    Event& e = events.emplace_back();
    Message m(data);
    while (const auto field = m.next()) {
      if (field == 1) e.wall_time = m.as<double>();
      else if (field == 2) e.step = static_cast<std::int64_t>(m.number);
      else if (field == 3) e.file_version = m.payload;
      else if (field == 7) {
        Message log(m.payload);
        EXPECT_EQ(log.next(), 1);
        e.session_status = log.number;
      } else if (field == 5) {
        Message summary(m.payload);
        while (summary.next() == 1) {
          Message value(summary.payload);
          auto& [tag, number] = e.scalars.emplace_back();
          while (const auto f = value.next())
            if (f == 1) tag = value.payload;
            else if (f == 2) number = value.as<float>();
        }
      }
    }
  }
  return events;
}

TEST(Crc32c, KnownAnswers) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);            // the check value of the polynomial
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST(EventWriter, ReadsBackAsItWasWritten) {
  TempFolder folder;
  EventWriter w(folder / "tb");
  w.add(1, std::vector<Scalar>{{"loss/train", 9.5}, {"lr", 1e-3}});
  w.add(300, std::vector<Scalar>{{"loss/train", 1.25}});
  EXPECT_EQ(std::filesystem::path(w.path()).filename().string().substr(0, 20), "events.out.tfevents.");
  const auto events = read_events(w.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].file_version, "brain.Event:2");
  EXPECT_EQ(events[1].step, 1);
  EXPECT_EQ(events[1].scalars, (std::vector<std::pair<std::string, float>>{{"loss/train", 9.5f}, {"lr", 1e-3f}}));
  EXPECT_EQ(events[2].step, 300);
  EXPECT_GT(events[2].wall_time, 1.7e9);
  EXPECT_EQ(events[2].scalars[0].second, 1.25f);
}

TEST(EventWriter, AResumedRunStartsANewFileThatSupersedesLaterSteps) {
  TempFolder folder;
  EventWriter before(folder.path()), after(folder.path(), 200);
  EXPECT_NE(before.path(), after.path());
  const auto events = read_events(after.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].step, 200);
  EXPECT_EQ(events[1].session_status, 1u);
}

}  // namespace
}  // namespace finback::formats
