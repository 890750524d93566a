#include "pomona/error.h"
#include "pomona/file.h"

#include "encode/random_weights.h"
#include "error_of.h"
#include "temporary_folder.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <string>

namespace {

using pomona::Coding;
using pomona::DType;
using pomona::FileEntry;
using pomona::FileError;
using pomona::FileReader;
using pomona::FileWriter;
using pomona::Goal;
using pomona::InvalidArgument;
using pomona::make_weight;
using pomona::Mask;
using pomona::Weight;
using pomona::testing::bytes_of;
using pomona::testing::contents_of;
using pomona::testing::error_of;
using pomona::testing::TemporaryFolder;
using pomona::testing::write_contents;

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
    const int widths[] = {0, 0, 2, 3, 5, 8, 12, 16};
    const auto goal = static_cast<Goal>(rng() % 5);
    round_trip(weights, {.goal = goal, .gap_bits = widths[rng() % 8], .parallel = {}});
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
  EXPECT_LE(entry.bytes(), 16u);
}

TEST(FileWriter, StoresNothingForZerosAndEmptyTensors) {
  EXPECT_EQ(entry_of(floats("w", std::vector<float>(1000))).bytes(), 0u);
  EXPECT_EQ(entry_of(make_weight("w", DType::kInt64, {0, 5}, {})).bytes(), 0u);
}

TEST(FileWriter, StoresNoCodesForOneCentroid) {
  const auto entry = entry_of(floats("w", std::vector<float>(1000, 1.0f)));
  EXPECT_EQ(entry.centroids, 1);
  EXPECT_LE(entry.bytes(), 4u);
  EXPECT_EQ(entry.code_bytes, 0u);
}

TEST(FileWriter, StoresACodebookOfSixteenBitsInTwoBytesEach) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<uint16_t> bits(500);
    for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(0x3c00 + i % 3);
    const auto entry = entry_of(make_weight("w", dtype, {500}, bytes_of(bits)));
    EXPECT_EQ(entry.centroids, 3);
    EXPECT_LE(entry.codebook_bytes, 6u);
  }
}

TEST(FileWriter, GivesBackSharedWeightsWithOneCodeUsed) {
  Weight one{.name = "one", .shape = {5}, .mask = Mask(5), .codebook = {1, 2}};
  one.codes.assign(5, 1);
  Weight zero{.name = "zero", .shape = {2}, .mask = Mask(2), .codebook = {-0.0f, 0.0f}};
  zero.codes = {1, 0};
  round_trip({one, zero});
}

TEST(FileWriter, UsesTheGapBitsItIsTold) {
  std::mt19937_64 rng(1);
  const auto layer = pomona::testing::thesis_layer(rng, "fc", {100, 200}, 8, 32);
  uint64_t least = UINT64_MAX;
  for (int bits = 2; bits <= 16; ++bits) {
    const auto entry = entry_of(layer, {.gap_bits = bits, .parallel = {}});
    EXPECT_EQ(entry.gap_bits, bits);
    least = std::min(least, entry.position_bytes);
  }
  EXPECT_LE(entry_of(layer, {.goal = Goal::kFast, .parallel = {}}).position_bytes,
            least + 16);  // streams
}

TEST(FileWriter, WritesWhatEachGoalAsksFor) {
  std::mt19937_64 rng(2);
  const auto layer = pomona::testing::thesis_layer(rng, "fc", {100, 200}, 8, 32);
  const auto huffman = entry_of(layer, {.goal = Goal::kHuffman, .parallel = {}});
  EXPECT_EQ(huffman.positions, pomona::Positions::kGaps);
  EXPECT_EQ(huffman.position_coder, pomona::Coder::kHuffman);
  EXPECT_EQ(huffman.code_coder, pomona::Coder::kHuffman);
  const auto rans = entry_of(layer, {.goal = Goal::kRans, .parallel = {}});
  EXPECT_EQ(rans.position_coder, pomona::Coder::kRans);
  EXPECT_EQ(rans.code_coder, pomona::Coder::kRans);
  const auto context = entry_of(layer, {.goal = Goal::kContext, .parallel = {}});
  EXPECT_EQ(context.positions, pomona::Positions::kContext);
  EXPECT_EQ(context.code_coder, pomona::Coder::kContext);
  const auto smallest = entry_of(layer);
  for (const auto& entry : {huffman, rans, context}) EXPECT_LE(smallest.bytes(), entry.bytes());
}

TEST(FileWriter, TakesABitmaskOrCodesOfAllWeightsWhereFewArePruned) {
  std::mt19937_64 rng(3);
  const Coding fast{.goal = Goal::kFast, .parallel = {}};
  const auto shared = pomona::testing::thesis_layer(rng, "fc", {100, 200}, 80, 32);
  EXPECT_EQ(entry_of(shared, fast).positions, pomona::Positions::kInCodes);
  std::vector<float> values(20000);
  for (auto& value : values) value = rng() % 2 == 0 ? 0.0f : static_cast<float>(rng() % 1000000);
  const auto plain = entry_of(floats("w", values), fast);
  EXPECT_EQ(plain.positions, pomona::Positions::kBitmask);
}

TEST(FileWriter, CutsLargeTensorsIntoChunks) {
  std::mt19937_64 rng(4);
  for (const uint64_t kept : {1, 9, 60, 100}) {
    const auto layer = pomona::testing::thesis_layer(rng, "fc", {1200, 1000}, kept, 16);
    for (const Goal goal : {Goal::kFast, Goal::kHuffman, Goal::kRans}) {
      EXPECT_EQ(entry_of(layer, {.goal = goal, .parallel = {}}).chunk, 1048000);
    }
  }
  std::vector<float> values(size_t{3} << 20);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.01f * static_cast<float>(i % 70000);
  const auto entry = entry_of(floats("w", values), {.goal = Goal::kFast, .parallel = {}});
  EXPECT_EQ(entry.chunk, 1 << 20);
  EXPECT_EQ(entry.value_form, pomona::ValueForm::kPlanes);
}

TEST(FileWriter, GivesGroupedCodebooksBack) {
  std::mt19937_64 rng(5);
  std::vector<float> values(64 * 256);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(i / 256) + 0.1f * static_cast<float>(rng() % 7);
    if (rng() % 3 == 0) values[i] = 0;
  }
  const auto weight = make_weight("w", DType::kFloat32, {64, 256}, bytes_of(values));
  EXPECT_EQ(weight.group, 256);
  EXPECT_EQ(entry_of(weight).group, 256);
  EXPECT_EQ(entry_of(weight).centroids, 7);
}

TEST(FileWriter, StoresValuesOnAGridInTheirOwnFewBits) {
  std::vector<float> bias(300);
  std::mt19937_64 rng(6);
  for (auto& value : bias) value = static_cast<float>(static_cast<int>(rng() % 256) - 128) / 64;
  const auto entry = entry_of(floats("bias", bias));
  EXPECT_LT(entry.bytes(), 345u);  // a byte each, and which of 256 are taken
}

TEST(FileWriter, StoresACodebookThatBFloat16HoldsInTwoBytesEach) {
  std::mt19937_64 rng(7);
  Weight layer = pomona::testing::thesis_layer(rng, "fc", {50, 60}, 30, 16);
  for (size_t i = 0; i < layer.codebook.size(); ++i) {
    layer.codebook[i] =
        -1.0f + std::ldexp(static_cast<float>(i * i + 1), -14 + static_cast<int>(i) % 2);
    layer.codebook[i] =
        std::bit_cast<float>(std::bit_cast<uint32_t>(layer.codebook[i]) & 0xffff0000);
  }
  std::sort(layer.codebook.begin(), layer.codebook.end());
  layer.codebook.erase(std::unique(layer.codebook.begin(), layer.codebook.end()),
                       layer.codebook.end());
  for (auto& code : layer.codes) code = static_cast<uint8_t>(code % layer.codebook.size());
  const auto entry = entry_of(layer);
  EXPECT_LE(entry.codebook_bytes, 2 * layer.codebook.size());
}

TEST(FileWriter, StoresFloatsInFewerBytesThanTheyHave) {
  std::mt19937_64 rng(8);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> values(50000);
  for (auto& value : values) value = normal(rng);
  const auto entry = entry_of(floats("w", values));
  EXPECT_LT(entry.bytes(), values.size() * 4 * 85 / 100);
}

TEST(FileWriter, StoresCountersAndRepeatedRowsInAlmostNothing) {
  std::vector<int64_t> ids(4096);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i) + 1;
  EXPECT_LT(entry_of(make_weight("ids", DType::kInt64, {4096}, bytes_of(ids))).bytes(), 100u);
  std::vector<float> rows(512 * 64);
  for (size_t i = 0; i < rows.size(); ++i)
    rows[i] = std::sqrt(static_cast<float>(i % 64 + i / 6400 * 64 + 2));
  const auto entry = entry_of(make_weight("rows", DType::kFloat32, {512, 64}, bytes_of(rows)));
  EXPECT_LT(entry.bytes(), 5000u);
}

TEST(FileWriter, KeepsMetadata) {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a");
  writer.add(floats("w", {1, 2}));
  writer.set_metadata(R"({"accuracy": 0.98})");
  writer.commit();
  EXPECT_EQ(FileReader(folder / "a").metadata(), R"({"accuracy": 0.98})");
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
  for (const int bits : {-1, 1, 17}) {
    EXPECT_EQ(
        error_of<std::exception>(
            [&] { FileWriter(folder / "a", {.gap_bits = bits, .parallel = {}}); }),
        "FileWriter: expected `gap_bits` to be 0 or in 2..16, got " + std::to_string(bits) + ".");
  }
  EXPECT_EQ(folder.file_count(), 0u);
}

TEST(FileWriter, RefusesABadWeightAndGoesOn) {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a");
  writer.add(floats("w", {1}));
  Weight broken = floats("x", {1});
  broken.values.clear();
  EXPECT_NE(error_of<std::exception>([&] { writer.add(broken); }).find("weight 'x'"),
            std::string::npos);
  EXPECT_EQ(error_of<std::exception>([&] { writer.add(floats("w", {2})); }),
            "FileWriter: expected names that differ, got 'w' twice.");
  writer.add(floats("x", {2}));
  writer.commit();
  EXPECT_EQ(FileReader(folder / "a").entries().size(), 2u);
}

TEST(FileWriter, RefusesToGoOnAfterCommit) {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a");
  writer.commit();
  EXPECT_NE(error_of<std::exception>([&] { writer.commit(); }).find("expected an open file"),
            std::string::npos);
  EXPECT_NE(
      error_of<std::exception>([&] { writer.add(floats("w", {1})); }).find("expected an open file"),
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
  std::mt19937 rng(1);
  for (auto& value : values) value = std::bit_cast<float>(static_cast<uint32_t>(rng()));
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
