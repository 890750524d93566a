#include "pomona/error.h"
#include "pomona/file.h"

#include "base/crc32c.h"
#include "base/little_endian.h"
#include "base/varint.h"
#include "encode/random_weights.h"
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

// Some bytes as a file, read whole.
class Damaged {
 public:
  // "" when the bytes are accepted, else the message of the CorruptFile.
  std::string operator()(const std::string& bytes) {
    write_contents(folder_ / "a", bytes);
    try {
      FileReader(folder_ / "a").verify();
    } catch (const CorruptFile& error) {
      EXPECT_FALSE(error.section.empty());
      EXPECT_LE(error.offset, std::max<size_t>(bytes.size(), 100));
      return error.what();
    }
    return "";
  }

 private:
  TemporaryFolder folder_;
};

std::string file_of(const std::vector<Weight>& weights) {
  const TemporaryFolder folder;
  FileWriter writer(folder / "a");
  for (const auto& weight : weights) writer.add(weight);
  writer.commit();
  return contents_of(folder / "a");
}

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
  EXPECT_EQ(fc.codebook_bytes, 32u);
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
  const std::string error = error_of([&] { reader.read("fc1"); });
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
    bytes[field] = 2;
    const uint32_t checksum = crc32c(std::as_bytes(std::span(bytes).first(12)));
    std::memcpy(bytes.data() + 12, &checksum, 4);
    write_contents(folder / "a", bytes);
    EXPECT_THROW(FileReader(folder / "a"), InvalidArgument);
    EXPECT_NE(error_of([&] { FileReader(folder / "a"); }).find("written by a newer version"),
              std::string::npos);
  }
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
  bytes[16 + 32] = static_cast<char>(bytes[16 + 32] ^ 1);  // after header and codebook
  write_contents(folder / "a", bytes);
  const FileReader reader(folder / "a");
  EXPECT_NO_THROW(reader.read("bias"));
  const std::string error = error_of([&] { reader.read("fc"); });
  EXPECT_NE(error.find("fc/positions at byte 48: "), std::string::npos) << error;
  EXPECT_THROW(reader.verify(), CorruptFile);
}

TEST(FileReader, OfAFileCutShortWhileOpenSaysSo) {
  const TemporaryFolder folder;
  write_contents(folder / "a", small_file());
  const FileReader reader(folder / "a");
  std::filesystem::resize_file(folder / "a", 20);
  EXPECT_NE(error_of([&] { reader.read("fc"); }).find("fc/codebook at byte 20"), std::string::npos);
}

// Files with right checksums that say what no writer would say.
class Forged {
 public:
  // One tensor "w": the fields of its entry after the name, and its sections.
  std::string operator()(std::vector<uint64_t> fields,
                         const std::vector<std::string>& sections = {}, int count = 1) {
    std::vector<std::byte> directory;
    append_varint(directory, static_cast<uint64_t>(count));
    for (int i = 0; i < count; ++i) {
      append_varint(directory, 1);
      directory.push_back(std::byte{'w'});
      for (const uint64_t field : fields) append_varint(directory, field);
      for (const auto& section : sections) {
        append_little_endian(directory, crc32c(std::as_bytes(std::span(section))));
      }
    }
    std::string bytes = file_of({}).substr(0, 16);
    for (const auto& section : sections) bytes += section;
    std::vector<std::byte> footer;
    append_little_endian(footer, uint64_t{bytes.size()});
    append_little_endian(footer, uint64_t{bytes.size() + directory.size() + 24});
    append_little_endian(footer, crc32c(directory));
    append_little_endian(footer, crc32c(footer));
    for (const auto byte : directory) bytes += static_cast<char>(byte);
    for (const auto byte : footer) bytes += static_cast<char>(byte);
    return damaged_(bytes);
  }

 private:
  Damaged damaged_;
};

constexpr uint64_t kF32 = 0, kI64 = 8;

TEST(FileReader, RefusesEntriesThatNoWriterWrites) {
  Forged forged;
  // dtype, dimensions, shape..., kept, centroids, gap bits, ...
  EXPECT_EQ(forged({kF32, 1, 4, 0, 0, 0}), "");
  EXPECT_NE(forged({10, 1, 4, 0, 0, 0}).find("a dtype below 10, got 10"), std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 5, 0, 0}).find("kept weights of at most 4, got 5"),
            std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 0, 257, 0}).find("at most 256, got 257"), std::string::npos);
  EXPECT_NE(forged({kI64, 1, 4, 0, 1, 0}).find("no centroids beside int64"), std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 0, 0, 3}).find("gap bits of 2..8"), std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 1, 0, 9}).find("gap bits of 2..8"), std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 1, 0, 2, 2, 1}).find("fillers of at most 1, got 2"),
            std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 1, 0, 2, 0, 0}).find("positions above 0, got 0"),
            std::string::npos);
  EXPECT_NE(forged({kF32, 9, 4}).find("got no varint"), std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 0, 0, 0, 0}).find("no bytes after the last entry"),
            std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 0, 0, 0}, {}, 2).find("got 'w' twice"), std::string::npos);
}

TEST(FileReader, RefusesSizesThatTheFileCannotHoldBeforeMakingRoom) {
  Forged forged;
  const uint64_t huge = uint64_t{1} << 62;
  EXPECT_NE(forged({kF32, 2, huge, 4, 0, 0, 0}).find("at most 2^36"), std::string::npos);
  EXPECT_NE(forged({kF32, 1, uint64_t{1} << 36, uint64_t{1} << 36, 0, 0}).find("sections before"),
            std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 1, 0, 2, 0, huge}).find("sections before"), std::string::npos);
  EXPECT_NE(forged({kF32, huge}).find("got no varint"), std::string::npos);
  EXPECT_EQ(forged({kF32, 2, huge, 0, 0, 0, 0}), "");  // an empty tensor
}

TEST(FileReader, RefusesSectionsThatNoWriterWrites) {
  Forged forged;
  const auto floats = [](const std::vector<float>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), 4 * values.size());
  };
  EXPECT_EQ(forged({kF32, 1, 4, 0, 2, 0}, {floats({1, 2})}), "");
  EXPECT_NE(forged({kF32, 1, 4, 0, 2, 0}, {floats({2, 1})}).find("w/codebook at byte 16"),
            std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 0, 1, 0}, {floats({1, 2})}).find("sections that end where"),
            std::string::npos);
}

TEST(FileReader, RefusesStreamsThatNoWriterWrites) {
  Forged forged;
  const auto with_positions = [&](int fillers, std::initializer_list<int> bytes) {
    std::string positions;
    for (const int byte : bytes) positions += static_cast<char>(byte);
    return forged({kF32, 1, 8, 1, 1, 2, static_cast<uint64_t>(fillers), positions.size()},
                  {std::string(4, 'c'), positions});
  };
  EXPECT_EQ(with_positions(0, {0}), "");  // fixed width of 0 bits: the first weight
  // fixed width of 3 bits: filler (4), gap 3
  EXPECT_EQ(with_positions(1, {0b100'0011'0, 0b011}), "");
  // filler, filler: no weight at the end
  EXPECT_NE(with_positions(1, {0b100'0011'0, 0b100}).find("w/positions at byte 20"),
            std::string::npos);
  // a symbol above the filler
  EXPECT_NE(with_positions(0, {0b101'0011'0}).find("symbols below 5, got 5"), std::string::npos);
  // padding that is not 0
  EXPECT_NE(with_positions(0, {0b001'0000'0}).find("zero bits to the end"), std::string::npos);
}

}  // namespace
