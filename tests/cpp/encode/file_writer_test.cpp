#include "pomona/error.h"
#include "pomona/file.h"

#include "encode/random_weights.h"
#include "temporary_folder.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <string>

namespace {

using pomona::Coding;
using pomona::DType;
using pomona::FileEntry;
using pomona::FileError;
using pomona::FileReader;
using pomona::FileWriter;
using pomona::InvalidArgument;
using pomona::make_weight;
using pomona::Mask;
using pomona::Weight;
using pomona::testing::bytes_of;
using pomona::testing::contents_of;
using pomona::testing::TemporaryFolder;
using pomona::testing::write_contents;

template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

// Writes the weights, reads them back, compares, and returns the entries.
std::vector<FileEntry> round_trip(const std::vector<Weight>& weights, Coding coding = {}) {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a.pomona", coding);
  std::vector<FileEntry> entries;
  for (const auto& weight : weights) entries.push_back(writer.add(weight));
  const uint64_t size = writer.commit();
  EXPECT_EQ(size, file_size(folder / "a.pomona"));
  const FileReader reader(folder / "a.pomona");
  EXPECT_EQ(reader.size(), size);
  EXPECT_NO_THROW(reader.verify());
  for (const auto& weight : weights) EXPECT_EQ(reader.read(weight.name), weight) << weight.name;
  return entries;
}

FileEntry entry_of(const Weight& weight, Coding coding = {}) {
  return round_trip({weight}, coding)[0];
}

Weight floats(const std::string& name, const std::vector<float>& values) {
  return make_weight(name, DType::kFloat32, {static_cast<int64_t>(values.size())},
                     bytes_of(values));
}

TEST(FileWriter, GivesRandomWeightsBackExactly) {
  std::mt19937_64 rng(1);
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<Weight> weights;
    for (uint64_t n = rng() % 12; n > 0; --n) {
      weights.push_back(pomona::testing::random_weight(rng, pomona::testing::numbered_name(n)));
    }
    const int widths[] = {0, 0, 2, 3, 5, 8};
    round_trip(weights, {.gap_bits = widths[rng() % 6]});
    ASSERT_FALSE(HasFailure()) << "trial " << trial;
  }
}

TEST(FileWriter, OfNothingMakesTheSmallestFile) {
  EXPECT_TRUE(round_trip({}).empty());
}

TEST(FileWriter, StoresNoPositionsWhenNothingIsPruned) {
  const auto entry = entry_of(floats("w", {1, 2, 3, 4}));
  EXPECT_EQ(entry.gap_bits, 0);
  EXPECT_EQ(entry.position_bytes, 0u);
  EXPECT_EQ(entry.value_bytes, 16u);
  EXPECT_EQ(entry.bytes(), 16u);
}

TEST(FileWriter, StoresNothingForZerosAndEmptyTensors) {
  EXPECT_EQ(entry_of(floats("w", std::vector<float>(1000))).bytes(), 0u);
  EXPECT_EQ(entry_of(make_weight("w", DType::kInt64, {0, 5}, {})).bytes(), 0u);
}

TEST(FileWriter, StoresNoCodesForOneCentroid) {
  const auto entry = entry_of(floats("w", std::vector<float>(1000, 1.0f)));
  EXPECT_EQ(entry.centroids, 1);
  EXPECT_EQ(entry.bytes(), 4u);
}

TEST(FileWriter, StoresACodebookOfSixteenBitsInTwoBytesEach) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<uint16_t> bits(500);
    for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(0x3c00 + i % 3);
    const auto entry = entry_of(make_weight("w", dtype, {500}, bytes_of(bits)));
    EXPECT_EQ(entry.centroids, 3);
    EXPECT_EQ(entry.codebook_bytes, 6u);
  }
}

TEST(FileWriter, GivesBackSharedWeightsWithoutKeptOnesOrWithOneCodeUsed) {
  Weight none{.name = "none", .shape = {5}, .mask = Mask(5, false), .codebook = {1, 2}};
  Weight one{.name = "one", .shape = {5}, .mask = Mask(5), .codebook = {1, 2}};
  one.codes.assign(5, 1);
  Weight zero{.name = "zero", .shape = {2}, .mask = Mask(2), .codebook = {-0.0f, 0.0f}};
  zero.codes = {1, 0};
  round_trip({none, one, zero});
}

TEST(FileWriter, UsesTheGapBitsItIsTold) {
  std::mt19937_64 rng(1);
  const auto layer = pomona::testing::thesis_layer(rng, "fc", {100, 200}, 8, 32);
  uint64_t least = UINT64_MAX;
  for (int bits = 2; bits <= 8; ++bits) {
    const auto entry = entry_of(layer, {.gap_bits = bits});
    EXPECT_EQ(entry.gap_bits, bits);
    least = std::min(least, entry.position_bytes);
  }
  EXPECT_EQ(entry_of(layer).position_bytes, least);
}

// LeNet-5 as the thesis leaves it: 431K weights, 8% kept, 8 and 5 bits.
TEST(FileWriter, MakesLeNet5ThirtyTimesSmaller) {
  std::mt19937_64 rng(1);
  using pomona::testing::thesis_layer;
  const TemporaryFolder folder;
  FileWriter writer(folder / "a.pomona");
  writer.add(thesis_layer(rng, "conv1.weight", {20, 1, 5, 5}, 66, 200));
  writer.add(thesis_layer(rng, "conv2.weight", {50, 20, 5, 5}, 12, 254));
  writer.add(thesis_layer(rng, "fc1.weight", {500, 800}, 8, 31));
  writer.add(thesis_layer(rng, "fc2.weight", {10, 500}, 19, 31));
  EXPECT_LT(writer.commit(), 431000 * 4 / 30);
}

TEST(FileWriter, TakesNamesOfAnyBytes) {
  round_trip({floats("", {1}), floats("a/b\n\xff", {2}), floats(std::string(300, 'n'), {3})});
}

TEST(FileWriter, ReplacesAFileOnlyWhenItCommits) {
  const TemporaryFolder folder;
  write_contents(folder / "a", "old");
  {
    FileWriter writer(folder / "a");
    writer.add(floats("w", {1, 2}));
    EXPECT_EQ(contents_of(folder / "a"), "old");
  }
  EXPECT_EQ(contents_of(folder / "a"), "old");
  EXPECT_EQ(folder.file_count(), 1u);
  FileWriter(folder / "a").commit();
  EXPECT_NO_THROW(FileReader(folder / "a").verify());
}

TEST(FileWriter, RefusesGapBitsOutsideTheirRangeBeforeItOpensAFile) {
  const TemporaryFolder folder;
  for (const int bits : {-1, 1, 9}) {
    EXPECT_EQ(
        error_of([&] { FileWriter(folder / "a", {.gap_bits = bits}); }),
        "FileWriter: expected `gap_bits` to be 0 or in 2..8, got " + std::to_string(bits) + ".");
  }
  EXPECT_EQ(folder.file_count(), 0u);
}

TEST(FileWriter, RefusesABadWeightAndGoesOn) {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a");
  writer.add(floats("w", {1}));
  Weight broken = floats("x", {1});
  broken.values.clear();
  EXPECT_NE(error_of([&] { writer.add(broken); }).find("weight 'x'"), std::string::npos);
  EXPECT_EQ(error_of([&] { writer.add(floats("w", {2})); }),
            "FileWriter: expected names that differ, got 'w' twice.");
  writer.add(floats("x", {2}));
  writer.commit();
  EXPECT_EQ(FileReader(folder / "a").entries().size(), 2u);
}

TEST(FileWriter, RefusesToGoOnAfterCommit) {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a");
  writer.commit();
  EXPECT_NE(error_of([&] { writer.commit(); }).find("expected an open file"), std::string::npos);
  EXPECT_NE(error_of([&] { writer.add(floats("w", {1})); }).find("expected an open file"),
            std::string::npos);
}

TEST(FileWriter, OnAFullDiskThrowsAndLeavesTheOldFileWhole) {
  const TemporaryFolder folder;
  write_contents(folder / "a", "old");
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{2000, before.rlim_max};
  FileWriter writer(folder / "a");
  std::vector<float> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i + 1);
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THROW(writer.add(floats("w", values)), FileError);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THROW(writer.commit(), InvalidArgument);
  EXPECT_EQ(contents_of(folder / "a"), "old");
  EXPECT_EQ(folder.file_count(), 1u);
}

TEST(FileWriter, RefusesAFolderThatIsNotThereOrIsThePath) {
  const TemporaryFolder folder;
  EXPECT_THROW(FileWriter(folder / "none/a"), FileError);
  EXPECT_THROW(FileWriter(folder.path()), FileError);
}

}  // namespace
