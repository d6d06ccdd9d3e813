#include "formats/safetensors.h"

#include "formats/convert.h"
#include "tests/formats/temp_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <numeric>

namespace finback::formats {
namespace {

using core::DType;
using core::Exit;
using finback::testing::expect_error;
using finback::testing::put_file;
using finback::testing::TempFolder;

std::string file_of(std::string_view header, std::size_t data_bytes) {
  const std::uint64_t n = header.size();
  std::string s(8, '\0');
  std::memcpy(s.data(), &n, 8);
  s += header;
  s.append(data_bytes, 'x');
  return s;
}

class Safetensors : public ::testing::Test {
 protected:
  void refuses(std::string_view header, std::size_t data_bytes, std::initializer_list<std::string_view> parts) {
    refuses_bytes(file_of(header, data_bytes), parts);
  }
  void refuses_bytes(std::string_view bytes, std::initializer_list<std::string_view> parts) {
    put_file(path_, bytes);
    expect_error(Exit::bad_input, parts, [&] { SafetensorsFile f(path_); });
  }
  void accepts(std::string_view header, std::size_t data_bytes) {
    put_file(path_, file_of(header, data_bytes));
    EXPECT_NO_THROW(SafetensorsFile f(path_)) << header;
  }

  TempFolder folder_;
  std::string path_ = folder_ / "t.safetensors";
};

TEST_F(Safetensors, ReadsWhatItWrote) {
  const std::vector<float> a{1, 2, 3, 4, 5, 6};
  const std::vector<std::uint16_t> b{7, 8, 9};
  SafetensorsWriter w(path_, {{"a", DType::f32, {2, 3}}, {"none", DType::i64, {0, 4}}, {"b", DType::bf16, {3}}, {"s", DType::u8, {}}});
  w.write(a.data(), 8);  // in pieces
  w.write(a.data() + 2, 16);
  w.write(b.data(), 6);
  w.write("!", 1);
  const FileSum sum = w.commit();
  EXPECT_EQ(sum.name, "t.safetensors");
  EXPECT_EQ(sum.bytes, core::file_size(path_));

  const SafetensorsFile f(path_);
  ASSERT_EQ(f.tensors().size(), 4u);
  EXPECT_EQ(f.metadata().at("format"), "pt");
  const TensorInfo* t = f.find("a");
  ASSERT_TRUE(t);
  EXPECT_EQ(t->dtype, "F32");
  EXPECT_EQ(t->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(t->begin % 64, 0u);
  std::vector<float> back(6);
  f.read(*t, back.data());
  EXPECT_EQ(back, a);
  float third = 0;
  f.read(*t, &third, 8, 4);
  EXPECT_EQ(third, 3);
  std::vector<std::uint16_t> back_b(3);
  f.read(*f.find("b"), back_b.data());
  EXPECT_EQ(back_b, b);
  EXPECT_EQ(f.find("none")->bytes(), 0u);
  EXPECT_TRUE(f.find("s")->shape.empty());
  EXPECT_EQ(f.find("c"), nullptr);
}

// Written by scripts/witness_safetensors.py --record with the safetensors package: element i of each tensor is i / 4 - 1.
TEST(SafetensorsRecorded, ReadsAFileOfThePackage) {
  const SafetensorsFile f(FINBACK_SOURCE_DIR "/tests/formats/recorded/package.safetensors");
  EXPECT_EQ(f.metadata().at("format"), "pt");
  ASSERT_EQ(f.tensors().size(), 4u);
  EXPECT_EQ(f.find("bf16")->shape, (std::vector<std::int64_t>{2, 3}));
  for (const TensorInfo& t : f.tensors()) {
    const DType dtype = dtype_of(t.dtype).value();
    std::vector<std::byte> raw(t.bytes());
    f.read(t, raw.data());
    std::vector<double> values(raw.size() / static_cast<std::size_t>(core::size_of(dtype)));
    convert_weights(dtype, raw.data(), DType::f64, values.data(), static_cast<std::int64_t>(values.size()));
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], static_cast<double>(i) / 4 - 1) << t.name;
  }
}

TEST_F(Safetensors, SumsOfTheWriterAreThoseOfTheFile) {
  SafetensorsWriter w(path_, {{"empty", DType::f32, {0}}, {"a", DType::u8, {5}}, {"z", DType::u8, {0}}});
  w.write("hello", 5);
  Manifest written, read_back;
  written.add(w.commit());
  read_back.add_file(folder_.path(), "t.safetensors");
  const FileSum &x = written.files()[0], &y = read_back.files()[0];
  EXPECT_EQ(x.xxh3, y.xxh3);
  ASSERT_EQ(x.tensors.size(), 3u);
  for (const TensorSum& t : x.tensors)
    for (const TensorSum& u : y.tensors) {
      if (t.name != u.name) continue;
      EXPECT_TRUE(t.begin == u.begin && t.bytes == u.bytes && t.xxh3 == u.xxh3) << t.name;
    }
}

TEST_F(Safetensors, RefusesAHeaderThatCannotBe) {
  refuses_bytes("", {"file too short for header"});
  refuses_bytes("1234567", {"file too short for header"});
  refuses_bytes(std::string(8, '\0'), {"does not begin with '{'"});
  for (const std::uint64_t n : {std::uint64_t{1} << 63, ~std::uint64_t{0}, std::uint64_t{100'000'001}}) {
    std::string bytes(16, ' ');
    std::memcpy(bytes.data(), &n, 8);
    refuses_bytes(bytes, {"header length", "100000000"});
  }
  std::string long_header = file_of("{}", 0);
  long_header[0] = 3;
  refuses_bytes(long_header, {"file too short for header"});
}

TEST_F(Safetensors, RefusesAHeaderThatIsNotItsJson) {
  refuses("[]", 0, {"does not begin with '{'"});
  refuses(" {}", 0, {"does not begin with '{'", "byte 8"});
  refuses("{}\n", 0, {"spaces at byte 10"});
  refuses(std::string_view("{}\0", 3), 0, {"byte 10"});
  refuses("{\"a\" 1}", 0, {"not valid JSON at byte 5"});
  refuses("{\"\xff\":1}", 0, {"not valid JSON at byte"});
  refuses("{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}", 0, {"not valid JSON at byte"});
  refuses("{} {}", 0, {"after the JSON value at byte 3"});
  accepts("{}     ", 0);
}

TEST_F(Safetensors, RefusesADuplicateKey) {
  constexpr std::string_view kT = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  refuses(fmt::format(R"({{"twin":{0},"twin":{0}}})", kT), 1, {"duplicate key 'twin'"});
  refuses(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1, {"duplicate key 'dtype'"});
  refuses(R"({"__metadata__":{"k":"1","k":"2"}})", 0, {"duplicate key 'k'"});
}

TEST_F(Safetensors, RefusesHolesOverlapsAndTails) {
  constexpr const char* kTwo =
      R"({{"first":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}},"second":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})";
  const auto two = [&](int a, int b, int c, int d) { return fmt::format(fmt::runtime(kTwo), b - a, a, b, d - c, c, d); };
  accepts(two(0, 2, 2, 4), 4);
  accepts(two(2, 4, 0, 2), 4);  // the header's order is free
  refuses(two(0, 3, 2, 4), 4, {"first", "second", "overlap"});
  refuses(two(0, 2, 0, 2), 2, {"first", "second", "overlap"});
  refuses(two(0, 2, 3, 5), 5, {"first", "second", "hole"});
  refuses(two(1, 2, 2, 4), 4, {"first", "the header", "hole"});
  refuses(two(0, 2, 2, 4), 5, {"1 bytes after the last tensor, 'second'"});
  refuses(two(0, 2, 2, 4), 3, {"second", "cut short"});
  refuses(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1, {"'a'", "before it begins"});
  refuses("{}", 1, {"1 bytes after"});
}

TEST_F(Safetensors, RefusesShapesThatDoNotFit) {
  const auto one = [](std::string_view dtype, std::string_view shape, std::string_view offsets = "[0,4]") {
    return fmt::format(R"({{"a":{{"dtype":"{}","shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
  };
  accepts(one("F32", "[1]"), 4);
  accepts(one("F32", "[]"), 4);
  accepts(one("F32", "[0,9223372036854775807]", "[0,0]"), 0);
  accepts(one("F4", "[2,2,2]"), 4);
  refuses(one("F32", "[2]"), 4, {"'a'", "has 4 bytes", "needs 8"});
  refuses(one("F32", "[4294967296,4294967296,2]"), 4, {"'a'", "more elements than 2^64"});
  refuses(one("F32", "[9223372036854775807]"), 4, {"'a'", "more bits than 2^64"});
  refuses(one("F32", "[18446744073709551615]"), 4, {"'a'", "dimension 18446744073709551615"});
  refuses(one("F32", "[-1]"), 4, {"'a'", "dimension -1"});
  refuses(one("F32", "[1e30]"), 4, {"'a'", "dimension 1E30"});
  refuses(one("F32", "[1.0]"), 4, {"'a'", "dimension 1E0"});
  refuses(one("F32", "\"1\""), 4, {"'a'", "no shape"});
  refuses(one("F4", "[7]"), 4, {"'a'", "not whole bytes"});
  refuses(one("F16", "[2]", "[0,4,4]"), 4, {"'a'", "data_offsets"});
  refuses(one("F16", "[2]", "[0,4.0]"), 4, {"'a'", "data_offsets"});
  refuses(one("F16", "[2]", "[-4,0]"), 4, {"'a'", "data_offsets"});
  refuses(one("F99", "[2]"), 4, {"'a'", "unknown dtype 'F99'"});
  refuses(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, {"'a'", "no dtype"});
  refuses(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1, {"'a'", "unknown field 'x'"});
  refuses(R"({"a":[]})", 1, {"'a'", "not an object"});
  refuses(R"({"__metadata__":{"k":1}})", 0, {"__metadata__ 'k' is not a string"});
}

TEST_F(Safetensors, AFileThatShrinksIsAnErrorNotASignal) {
  std::string data(1 << 20, 'x');
  SafetensorsWriter w(path_, {{"a", DType::u8, {1 << 20}}});
  w.write(data.data(), data.size());
  w.commit();
  const SafetensorsFile f(path_);
  ASSERT_EQ(::truncate(path_.c_str(), 5000), 0);
  expect_error(Exit::io, {"file ends at byte 5000"}, [&] { f.read(*f.find("a"), data.data()); });
  expect_error(Exit::io, {"cannot open"}, [&] { SafetensorsFile g(folder_ / "absent"); });
  expect_error(Exit::io, {"not a regular file"}, [&] { SafetensorsFile g(folder_.path()); });
}

}  // namespace
}  // namespace finback::formats
