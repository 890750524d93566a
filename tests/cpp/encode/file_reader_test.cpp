#include "pomona/error.h"
#include "pomona/file.h"

#include "base/crc32c.h"
#include "base/little_endian.h"
#include "base/varint.h"
#include "encode/damaged.h"
#include "encode/random_weights.h"
#include "error_of.h"
#include "temporary_folder.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

namespace {

using pomona::append_little_endian;
using pomona::append_varint;
using pomona::CorruptFile;
using pomona::crc32c;
using pomona::DType;
using pomona::FileError;
using pomona::FileReader;
using pomona::FileWriter;
using pomona::InvalidArgument;
using pomona::make_weight;
using pomona::Weight;
using pomona::testing::bytes_of;
using pomona::testing::contents_of;
using pomona::testing::Damaged;
using pomona::testing::error_of;
using pomona::testing::file_of;
using pomona::testing::TemporaryFolder;
using pomona::testing::write_contents;

// A few hundred bytes that have every section.
std::string small_file() {
  std::mt19937_64 rng(1);
  return file_of({pomona::testing::thesis_layer(rng, "fc", {20, 30}, 20, 8),
                  make_weight("bias", DType::kFloat32, {3}, bytes_of(std::vector<float>{1, 0, 3})),
                  make_weight("step", DType::kInt64, {}, bytes_of(std::vector<int64_t>{7}))});
}

TEST(FileReader, ListsWhatWasWrittenInOrder) {
  const TemporaryFolder folder;
  write_contents(folder / "a", small_file());
  const FileReader reader(folder / "a");
  ASSERT_EQ(reader.entries().size(), 3u);
  const auto& fc = reader.entries()[0];
  EXPECT_EQ(fc.name, "fc");
  EXPECT_EQ(fc.shape, (std::vector<int64_t>{20, 30}));
  EXPECT_EQ(fc.numel, 600);
  EXPECT_EQ(fc.centroids, 8);
  EXPECT_EQ(fc.offset, 16u);
  EXPECT_EQ(reader.entries()[1].offset, 16 + fc.bytes());
  EXPECT_EQ(reader.entries()[2].dtype, DType::kInt64);
  EXPECT_TRUE(reader.contains("step"));
  EXPECT_FALSE(reader.contains("ste"));
}

TEST(FileReader, IsReadByManyThreadsAtOnce) {
  const TemporaryFolder folder;
  write_contents(folder / "a", small_file());
  const FileReader reader(folder / "a");
  const Weight expected = reader.read("fc");
  std::vector<std::thread> threads;
  std::vector<int> same(4);
  for (auto& flag : same) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) flag += reader.read("fc") == expected;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(same, std::vector<int>(4, 50));
}

TEST(FileReader, RefusesANameThatIsNotThereAndListsThoseThatAre) {
  const TemporaryFolder folder;
  write_contents(folder / "a", small_file());
  const FileReader reader(folder / "a");
  const std::string error = error_of<std::exception>([&] { reader.read("fc1"); });
  EXPECT_NE(error.find("got 'fc1'. It holds: fc, bias, step."), std::string::npos) << error;
}

TEST(FileReader, RefusesAMissingFileAndAFolder) {
  const TemporaryFolder folder;
  EXPECT_THROW(FileReader(folder / "none"), FileError);
  EXPECT_THROW(FileReader(folder.path()), FileError);
}

TEST(FileReader, RefusesWhatIsNotAPomonaFile) {
  Damaged damaged;
  EXPECT_NE(damaged("").find("header at byte 0: expected a pomona file, got an empty file"),
            std::string::npos);
  EXPECT_NE(damaged("PK\3\4 a zip file").find("got something else"), std::string::npos);
  EXPECT_NE(damaged("x").find("got something else"), std::string::npos);
  EXPECT_NE(damaged(std::string(1000, '\0')).find("got something else"), std::string::npos);
}

TEST(FileReader, SeesThatAFileWasCopiedAsText) {
  std::string text = small_file();
  for (size_t at = text.find("\r\n"); at != std::string::npos; at = text.find("\r\n")) {
    text.erase(at, 1);
  }
  EXPECT_NE(Damaged()(text).find("copied as text?"), std::string::npos);
}

TEST(FileReader, RefusesANewerVersionWithARightChecksum) {
  const TemporaryFolder folder;
  for (const size_t field : {8, 10}) {  // version, flags
    std::string bytes = small_file();
    bytes[field] = 3;
    const uint32_t checksum = crc32c(std::as_bytes(std::span(bytes).first(12)));
    std::memcpy(bytes.data() + 12, &checksum, 4);
    write_contents(folder / "a", bytes);
    EXPECT_THROW(FileReader(folder / "a"), InvalidArgument);
    EXPECT_NE(error_of<std::exception>([&] {
                FileReader(folder / "a");
              }).find("written by a newer version"),
              std::string::npos);
  }
}

TEST(FileReader, RefusesAVersionThatWasNeverReleased) {
  std::string bytes = small_file();
  bytes[8] = 1;
  const uint32_t checksum = crc32c(std::as_bytes(std::span(bytes).first(12)));
  std::memcpy(bytes.data() + 12, &checksum, 4);
  EXPECT_NE(Damaged()(bytes).find("version 2, got 1, which was never released"), std::string::npos);
}

TEST(FileReader, RefusesEveryFlippedBit) {
  std::string bytes = small_file();
  Damaged damaged;
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_NE(damaged(bytes), "") << "bit " << bit;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
  }
}

TEST(FileReader, RefusesEveryTruncationAndEveryAppendedByte) {
  const std::string bytes = small_file();
  Damaged damaged;
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_NE(damaged(bytes.substr(0, size)), "") << size;
  }
  for (int byte = 0; byte < 256; ++byte) {
    ASSERT_NE(damaged(bytes + static_cast<char>(byte)), "") << byte;
  }
}

TEST(FileReader, IsNotFooledByAFileWithinATensor) {
  const std::string inner = small_file();
  const std::vector<uint8_t> values(inner.begin(), inner.end());
  const auto n = static_cast<int64_t>(values.size());
  const std::string outer = file_of({make_weight("file", DType::kUInt8, {n}, bytes_of(values))});
  Damaged damaged;
  for (size_t size = 0; size < outer.size(); ++size) {
    ASSERT_NE(damaged(outer.substr(0, size)), "") << size;
  }
}

// One random damage; false when it happens to change nothing.
bool damage(std::mt19937_64& rng, std::string& bytes) {
  const std::string before = bytes;
  const size_t at = rng() % bytes.size(), length = 1 + rng() % 200;
  switch (rng() % 6) {
    case 0:
      bytes[at] = static_cast<char>(rng());
      break;
    case 1:
      bytes.resize(at);
      break;
    case 2:
      for (size_t i = at; i < std::min(at + length, bytes.size()); ++i) bytes[i] = 0;
      break;
    case 3:
      bytes.erase(at, length);
      break;
    case 4:
      bytes.insert(at, std::string(length, static_cast<char>(rng())));
      break;
    default: {  // two blocks change places
      const size_t size = std::min<size_t>(length, bytes.size() / 2);
      const size_t a = rng() % (bytes.size() / 2 - size + 1);
      const size_t b = bytes.size() / 2 + rng() % (bytes.size() / 2 - size + 1);
      std::swap_ranges(bytes.begin() + static_cast<std::ptrdiff_t>(a),
                       bytes.begin() + static_cast<std::ptrdiff_t>(a + size),
                       bytes.begin() + static_cast<std::ptrdiff_t>(b));
    }
  }
  return bytes != before;
}

TEST(FileReader, Refuses300RandomDamagesOfALargerFile) {
  std::mt19937_64 rng(1);
  std::vector<Weight> weights{pomona::testing::thesis_layer(rng, "fc1", {100, 300}, 8, 32)};
  for (uint64_t i = 0; i < 10; ++i) {
    weights.push_back(pomona::testing::random_weight(rng, pomona::testing::numbered_name(i)));
  }
  const std::string whole = file_of(weights);
  Damaged damaged;
  ASSERT_EQ(damaged(whole), "");
  for (int done = 0; done < 300;) {
    std::string bytes = whole;
    if (!damage(rng, bytes)) continue;
    ASSERT_NE(damaged(bytes), "") << "damage " << done;
    ++done;
  }
}

TEST(FileReader, NamesTheDamagedSectionAndItsByte) {
  const TemporaryFolder folder;
  std::string bytes = small_file();
  bytes[16 + 32] = static_cast<char>(bytes[16 + 32] ^ 1);
  write_contents(folder / "a", bytes);
  const FileReader reader(folder / "a");
  EXPECT_NO_THROW(reader.read("bias"));
  const std::string error = error_of<std::exception>([&] { reader.read("fc"); });
  EXPECT_NE(error.find("fc at byte 16: "), std::string::npos) << error;
  EXPECT_THROW(reader.verify(), CorruptFile);
}

TEST(FileReader, ReadsTensorsStraightIntoMemory) {
  const TemporaryFolder folder;
  std::mt19937_64 rng(2);
  std::vector<Weight> weights{pomona::testing::thesis_layer(rng, "fc1", {1100, 1000}, 8, 32)};
  for (uint64_t i = 0; i < 20; ++i) {
    weights.push_back(pomona::testing::random_weight(rng, pomona::testing::numbered_name(i)));
  }
  for (const auto goal : {pomona::Goal::kSmallest, pomona::Goal::kFast}) {
    FileWriter writer(folder / "a", {.goal = goal, .parallel = {}});
    for (const auto& weight : weights) writer.add(weight);
    writer.commit();
    const FileReader reader(folder / "a");
    std::vector<std::vector<std::byte>> dense;
    std::vector<FileReader::Target> targets;
    for (const auto& weight : weights) {
      dense.emplace_back(static_cast<size_t>(weight.numel() * item_size(weight.dtype)),
                         std::byte{0xff});
    }
    for (size_t i = 0; i < weights.size(); ++i) targets.push_back({weights[i].name, dense[i]});
    uint64_t last = 0;
    const pomona::ParallelFor threads = [](int64_t count,
                                           const std::function<void(int64_t)>& task) {
      std::thread other([&] {
        for (int64_t i = 1; i < count; i += 2) task(i);
      });
      for (int64_t i = 0; i < count; i += 2) task(i);
      other.join();
    };
    reader.read_into(targets, threads, [&](uint64_t done) { last = std::max(last, done); });
    EXPECT_GE(last, 4u * 1100 * 1000);
    for (size_t i = 0; i < weights.size(); ++i) EXPECT_EQ(dense[i], weights[i].to_dense());
    EXPECT_EQ(reader.read("fc1", threads), weights[0]);
  }
}

TEST(FileReader, RefusesMemoryOfAnotherSize) {
  const TemporaryFolder folder;
  write_contents(folder / "a", small_file());
  const FileReader reader(folder / "a");
  std::vector<std::byte> dense(11);
  const FileReader::Target target{"bias", dense};
  EXPECT_EQ(error_of<std::exception>([&] { reader.read_into(std::span(&target, 1)); }),
            "FileReader: expected `dense` of 12 bytes for 'bias', got 11.");
}

TEST(FileReader, SkipsSectionsThatMayBeSkippedAndRefusesThoseThatMayNot) {
  const TemporaryFolder folder;
  const auto with_extra = [&](uint64_t kind) {
    std::vector<std::byte> directory;
    append_varint(directory, 0);
    append_varint(directory, 1);
    append_varint(directory, kind);
    append_varint(directory, 3);
    append_little_endian(directory, crc32c(std::as_bytes(std::span("abc", 3))));
    std::string file = file_of({}).substr(0, 16) + "abc";
    std::vector<std::byte> footer;
    append_little_endian(footer, uint64_t{file.size()});
    append_little_endian(footer, uint64_t{file.size() + directory.size() + 24});
    append_little_endian(footer, crc32c(directory));
    append_little_endian(footer, crc32c(footer));
    for (const auto byte : directory) file += static_cast<char>(byte);
    for (const auto byte : footer) file += static_cast<char>(byte);
    write_contents(folder / "a", file);
    return error_of<std::exception>([&] { FileReader(folder / "a").verify(); });
  };
  EXPECT_EQ(with_extra(2), "no error");
  EXPECT_NE(with_extra(3).find("got kind 3. It was written by a newer version"), std::string::npos);
}

}  // namespace
