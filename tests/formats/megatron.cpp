#include "formats/megatron.h"

#include "tests/formats/temp_folder.h"

#include <cstring>
#include <numeric>

namespace finback::formats {
namespace {

using core::DType;
using core::Exit;
using finback::testing::expect_error;
using finback::testing::put_file;
using finback::testing::TempFolder;

// The index as its description says it, byte by byte.
std::string index_bytes(std::uint64_t version, std::uint8_t code, std::uint64_t sequences, std::uint64_t document_entries,
                        const std::vector<std::int32_t>& lengths, const std::vector<std::int64_t>& pointers,
                        const std::vector<std::int64_t>& documents) {
  std::string s("MMIDIDX\0\0", 9);
  const auto put = [&](const void* p, std::size_t n) { s.append(static_cast<const char*>(p), n); };
  put(&version, 8);
  put(&code, 1);
  put(&sequences, 8);
  put(&document_entries, 8);
  put(lengths.data(), 4 * lengths.size());
  put(pointers.data(), 8 * pointers.size());
  put(documents.data(), 8 * documents.size());
  return s;
}

std::vector<std::int32_t> sequence(const TokenFile& f, std::int64_t s) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(f.length(s)));
  f.read(s, 0, ids);
  return ids;
}

class Megatron : public ::testing::TestWithParam<DType> {
 protected:
  TempFolder folder_;
  std::string prefix_ = folder_ / "tokens";
};

TEST_P(Megatron, ReadsWhatItWrote) {
  const std::int32_t big = GetParam() == DType::u16 ? 65535 : 2147483647;
  TokenFileWriter w(prefix_, GetParam());
  w.add_document(std::vector<std::int32_t>{5, 6, big});
  w.add_document({});
  w.add_document(std::vector<std::int32_t>{0});
  EXPECT_FALSE(core::exists(prefix_ + ".idx"));
  w.commit();
  for (const char* suffix : {"", ".bin", ".idx"}) {
    const TokenFile f(prefix_ + suffix);
    EXPECT_EQ(f.dtype(), GetParam());
    EXPECT_EQ(f.sequences(), 3);
    EXPECT_EQ(f.documents(), 3);
    EXPECT_EQ(f.tokens(), 4);
    EXPECT_EQ(sequence(f, 0), (std::vector<std::int32_t>{5, 6, big}));
    EXPECT_EQ(sequence(f, 1), std::vector<std::int32_t>{});
    EXPECT_EQ(sequence(f, 2), (std::vector<std::int32_t>{0}));
    std::vector<std::int32_t> middle(2);
    f.read(0, 1, middle);
    EXPECT_EQ(middle, (std::vector<std::int32_t>{6, big}));
  }
}

TEST_P(Megatron, WritesTheLayoutByteForByte) {
  TokenFileWriter w(prefix_, GetParam());
  w.add_document(std::vector<std::int32_t>{1, 2, 3});
  w.add_document(std::vector<std::int32_t>{4});
  w.commit();
  const std::int64_t size = core::size_of(GetParam());
  EXPECT_EQ(core::read_file(prefix_ + ".idx", 1000), index_bytes(1, size == 2 ? 8 : 4, 2, 3, {3, 1}, {0, 3 * size}, {0, 1, 2}));
  EXPECT_EQ(core::file_size(prefix_ + ".bin"), static_cast<std::uint64_t>(4 * size));
}

TEST_P(Megatron, JoinsFilesKeepingDocumentsOfSeveralSequences) {
  // Two documents of two sequences and one, the second sequence first in the file.
  const std::int64_t size = core::size_of(GetParam());
  TokenFileWriter part(folder_ / "part", GetParam());
  part.add_document(std::vector<std::int32_t>{3, 1, 2});
  part.commit();
  put_file(folder_ / "part.idx", index_bytes(1, size == 2 ? 8 : 4, 3, 3, {2, 1, 3}, {size, 0, 0}, {0, 2, 3}));
  const TokenFile f(folder_ / "part");
  TokenFileWriter w(prefix_, GetParam());
  w.add_document(std::vector<std::int32_t>{9});
  w.add_file(f);
  w.commit();
  const TokenFile joined(prefix_);
  EXPECT_EQ(joined.documents(), 3);
  EXPECT_EQ(joined.first_sequence(1), 1);
  EXPECT_EQ(joined.first_sequence(2), 3);
  EXPECT_EQ(sequence(joined, 1), (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(sequence(joined, 2), (std::vector<std::int32_t>{3}));
  EXPECT_EQ(sequence(joined, 3), (std::vector<std::int32_t>{3, 1, 2}));
}

INSTANTIATE_TEST_SUITE_P(Types, Megatron, ::testing::Values(DType::u16, DType::i32), [](const auto& i) { return core::name_of(i.param); });

TEST(MegatronWriter, RefusesIdsItsTypeCannotHold) {
  TempFolder folder;
  TokenFileWriter w(folder / "t", DType::u16);
  expect_error(Exit::bad_input, {"65536", "u16"}, [&] { w.add_document(std::vector<std::int32_t>{65536}); });
  expect_error(Exit::bad_input, {"-1", "u16"}, [&] { w.add_document(std::vector<std::int32_t>{-1}); });
  EXPECT_EQ(token_dtype(65536), DType::u16);
  EXPECT_EQ(token_dtype(65537), DType::i32);
}

TEST(MegatronReader, RefusesAnIndexThatDoesNotFit) {
  TempFolder folder;
  const std::string prefix = folder / "t";
  put_file(prefix + ".bin", "12345678");  // four uint16
  const auto refuses = [&](const std::string& index, std::initializer_list<std::string_view> parts) {
    put_file(prefix + ".idx", index);
    expect_error(Exit::bad_input, parts, [&] { TokenFile f(prefix); });
  };
  const auto accepts = [&](const std::string& index) {
    put_file(prefix + ".idx", index);
    EXPECT_NO_THROW(TokenFile f(prefix));
  };
  accepts(index_bytes(1, 8, 2, 3, {3, 1}, {0, 6}, {0, 1, 2}));
  accepts(index_bytes(1, 8, 0, 1, {}, {}, {0}));
  refuses("", {"header alone has 34"});
  refuses("MMIDIDY" + std::string(40, '\0'), {"MMIDIDX"});
  refuses(index_bytes(2, 8, 0, 1, {}, {}, {0}), {"version 2"});
  refuses(index_bytes(1, 5, 0, 1, {}, {}, {0}), {"type code 5"});
  refuses(index_bytes(1, 8, 2, 3, {3, 1}, {0, 6}, {0, 1}), {"do not fit"});
  refuses(index_bytes(1, 8, 2, 3, {3, 1}, {0, 6}, {0, 1, 2, 2}), {"do not fit"});
  refuses(index_bytes(1, 8, ~std::uint64_t{0}, 3, {3, 1}, {0, 6}, {0, 1, 2}), {"do not fit"});
  refuses(index_bytes(1, 8, 2, std::uint64_t{1} << 61, {3, 1}, {0, 6}, {0, 1, 2}), {"do not fit"});
  refuses(index_bytes(1, 8, 0, 0, {}, {}, {}), {"no document entries"});
  refuses(index_bytes(1, 8, 2, 3, {3, -1}, {0, 6}, {0, 1, 2}), {"sequence 1", "length -1"});
  refuses(index_bytes(1, 8, 2, 3, {3, 2}, {0, 6}, {0, 1, 2}), {"sequence 1", "byte 6", "8 bytes"});
  refuses(index_bytes(1, 8, 2, 3, {3, 1}, {0, -2}, {0, 1, 2}), {"sequence 1", "byte -2"});
  refuses(index_bytes(1, 8, 2, 3, {3, 1}, {0, INT64_MAX}, {0, 1, 2}), {"sequence 1"});
  refuses(index_bytes(1, 8, 2, 3, {3, 1}, {0, 6}, {1, 1, 2}), {"document 0"});
  refuses(index_bytes(1, 8, 2, 3, {3, 1}, {0, 6}, {0, 3, 2}), {"document 1"});
  refuses(index_bytes(1, 8, 2, 3, {3, 1}, {0, 6}, {0, 2, 1}), {"document 2"});
  refuses(index_bytes(1, 8, 2, 3, {3, 1}, {0, 6}, {0, 1, 1}), {"end at sequence 1 of 2"});
  expect_error(Exit::io, {"absent.bin"}, [&] { TokenFile f(folder / "absent"); });
}

}  // namespace
}  // namespace finback::formats
