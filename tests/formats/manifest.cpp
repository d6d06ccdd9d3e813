#include "formats/manifest.h"

#include "formats/safetensors.h"
#include "tests/formats/temp_folder.h"

namespace finback::formats {
namespace {

using core::Exit;
using finback::testing::expect_error;
using finback::testing::flip_bit;
using finback::testing::put_file;
using finback::testing::TempFolder;

class ManifestTest : public ::testing::Test {
 protected:
  ManifestTest() {
    core::make_directories(folder_ / "train_state");
    put_file(folder_ / "config.json", "{}\n");
    SafetensorsWriter w(folder_ / "model.safetensors", {{"a", core::DType::f32, {2}}, {"b", core::DType::u8, {4}}});
    w.write("12345678", 8);
    w.write("abcd", 4);
    Manifest m;
    m.info["step"] = 200;
    m.info["lr"] = 1e-3;
    m.add(w.commit());
    m.add_file(folder_.path(), "config.json");
    m.write(manifest_);
  }
  std::vector<std::string> verify() { return Manifest::read(manifest_).verify(folder_.path()); }

  TempFolder folder_;
  std::string manifest_ = folder_ / "train_state/manifest.json", model_ = folder_ / "model.safetensors";
};

TEST_F(ManifestTest, AWholeFolderAgrees) {
  const Manifest m = Manifest::read(manifest_);
  EXPECT_EQ(m.info.at("step").as_int64(), 200);
  EXPECT_EQ(m.info.at("lr").as_double(), 1e-3);
  ASSERT_EQ(m.files().size(), 2u);
  EXPECT_EQ(m.files()[0].tensors[1].name, "b");
  EXPECT_TRUE(m.verify(folder_.path()).empty());
}

TEST_F(ManifestTest, EveryFlippedBitOfEveryFileIsFound) {
  const SafetensorsFile f(model_);
  const auto a = f.find("a")->begin, b = f.find("b")->begin;
  const auto size = core::file_size(model_);
  for (std::uint64_t byte = 0; byte < size; ++byte) {
    flip_bit(model_, byte, static_cast<int>(byte % 8));
    const auto faults = verify();
    ASSERT_EQ(faults.size(), 1u) << byte;
    EXPECT_NE(faults[0].find(byte < a ? "the header" : byte < b ? "tensor 'a'" : "tensor 'b'"), std::string::npos) << faults[0];
    EXPECT_NE(faults[0].find("model.safetensors"), std::string::npos);
    flip_bit(model_, byte, static_cast<int>(byte % 8));
  }
  flip_bit(folder_ / "config.json", 1);
  ASSERT_EQ(verify().size(), 1u);
  EXPECT_NE(verify()[0].find("config.json"), std::string::npos);
}

TEST_F(ManifestTest, EveryFlippedBitOfTheManifestIsFound) {
  for (std::uint64_t byte = 0; byte < core::file_size(manifest_); ++byte) {
    flip_bit(manifest_, byte, static_cast<int>(byte % 7));
    expect_error(Exit::bad_input, {"manifest"}, [&] { Manifest::read(manifest_); });
    flip_bit(manifest_, byte, static_cast<int>(byte % 7));
  }
  put_file(manifest_, "");
  expect_error(Exit::bad_input, {"no checksum"}, [&] { Manifest::read(manifest_); });
}

TEST_F(ManifestTest, MissingAndCutFilesAreNamedTogether) {
  core::sys::remove_tree(folder_ / "config.json");
  put_file(model_, core::read_file(model_, 1000).substr(0, 20));
  const auto faults = verify();
  ASSERT_EQ(faults.size(), 2u);
  EXPECT_NE(faults[0].find("20 bytes"), std::string::npos) << faults[0];
  EXPECT_NE(faults[1].find("config.json"), std::string::npos) << faults[1];
}

}  // namespace
}  // namespace finback::formats
