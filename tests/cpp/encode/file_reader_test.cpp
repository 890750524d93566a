#include "pomona/error.h"
#include "pomona/file.h"

#include "base/crc32c.h"
#include "base/little_endian.h"
#include "base/varint.h"
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
using pomona::testing::error_of;
using pomona::testing::TemporaryFolder;
using pomona::testing::write_contents;

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

// Files with right checksums that say what no writer would say.
class Forged {
 public:
  // One tensor "w": the fields of its entry after the name, and its section. `extras` follow.
  std::string operator()(std::vector<uint64_t> fields, const std::string& section = {},
                         int count = 1, std::vector<uint64_t> extras = {0}) {
    std::vector<std::byte> directory;
    append_varint(directory, static_cast<uint64_t>(count));
    for (int i = 0; i < count; ++i) {
      append_varint(directory, 1);
      directory.push_back(std::byte{'w'});
      for (const uint64_t field : fields) append_varint(directory, field);
      if (!section.empty()) {
        append_little_endian(directory, crc32c(std::as_bytes(std::span(section))));
      }
    }
    for (const uint64_t extra : extras) append_varint(directory, extra);
    std::string bytes = file_of({}).substr(0, 16) + section;
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
constexpr uint64_t kGaps = 1, kBitmask = 2, kInContext = 3, kInCodes = 4;  // positions in storage
constexpr uint64_t kPlanes = 1, kHasDistance = 2;                          // values

std::string bytes(std::initializer_list<int> values) {
  std::string text;
  for (const int value : values) text += static_cast<char>(value);
  return text;
}

std::string floats_text(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), 4 * values.size());
}

TEST(FileReader, RefusesEntriesThatNoWriterWrites) {
  Forged forged;
  const auto refuses = [&](std::vector<uint64_t> fields, const std::string& what) {
    const std::string error = forged(std::move(fields));
    EXPECT_NE(error.find(what), std::string::npos) << what << "; got: " << error;
  };
  // dtype, dimensions, shape..., kept, centroids, storage, codebook or values, ...
  EXPECT_EQ(forged({kF32, 1, 4, 0}), "");
  refuses({10, 1, 4, 0}, "a dtype of at most 9, got 10");
  refuses({kF32, 1, 4, 5}, "kept weights in 0..4, got 5");
  refuses({kF32, 1, 4, 4, 257}, "centroids in 0..256, got 257");
  refuses({kI64, 1, 4, 4, 1}, "no centroids beside int64");
  refuses({kF32, 1, 4, 4, 0, kGaps}, "a storage that goes with the tensor");
  refuses({kF32, 1, 4, 3, 0, 0}, "a storage that goes with the tensor");
  refuses({kF32, 1, 4, 3, 0, 5}, "positions of a kind in 0..4, got 5");
  refuses({kF32, 1, 4, 3, 0, kInCodes}, "a storage that goes with the tensor");
  refuses({kF32, 1, 4, 3, 0, kGaps | 3 << 3}, "a storage that goes with the tensor");
  refuses({kF32, 1, 4, 4, 0, 1 << 5}, "a storage that goes with the tensor");
  refuses({kF32, 1, 4, 4, 2, 0, 6}, "a form of codebooks in 0..5, got 6");
  refuses({kF32, 1, 4, 4, 2, 0, 5}, "a form of codebooks that goes with");
  refuses({kF32, 1, 4, 4, 2, 0, 8, 4}, "share a codebook in 1..3, got 4");
  refuses({kF32, 1, 4, 4, 0, 0, 4}, "the form of values of at most 3, got 4");
  refuses({kF32, 1, 4, 4, 0, 0, kHasDistance}, "a distance beside planes");
  refuses({kF32, 1, 4, 4, 0, 0, kPlanes | kHasDistance, 4}, "the distance in 1..3, got 4");
  refuses({kF32, 1, 4, 1, 0, kGaps, 0, 1}, "gap bits in 2..16, got 1");
  refuses({kF32, 1, 4, 1, 0, kGaps, 0, 17}, "gap bits of at most 16, got 17");
  refuses({kF32, 1, 4, 1, 0, kGaps, 0, 2, 2}, "fillers in 0..1, got 2");
  refuses({kF32, 1, 4, 1, 0, kGaps, 0, 2, 0, 0}, "size of the positions in 1..");
  refuses({kF32, 9, 4}, "got no varint");
  EXPECT_NE(forged({kF32, 1, 4, 0}, {}, 1, {0, 0}).find("no bytes after the last entry"),
            std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 0}, {}, 2).find("got 'w' twice"), std::string::npos);
}

TEST(FileReader, RefusesChunksThatDoNotCutTheTensor) {
  Forged forged;
  const auto refuses = [&](std::vector<uint64_t> fields, const std::string& what) {
    const std::string error = forged(std::move(fields));
    EXPECT_NE(error.find(what), std::string::npos) << what << "; got: " << error;
  };
  const uint64_t large = uint64_t{1} << 25;
  // As a varint it is two bytes: a storage with chunks, and then codebooks of form 1.
  const uint64_t chunked = 1 << 7;
  refuses({kF32, 1, large, large, 1, 0, 0}, "chunks of a tensor of more than 2^24 elements");
  refuses({kF32, 1, large, large, 1, chunked, 100}, "elements of a chunk in 65536..16777216");
  refuses({kF32, 1, large, large, 1, chunked, 65537}, "chunks that cut the tensor");
  refuses({kF32, 1, large, large, 2, chunked, 9, 65536, 9},
          "at least 512 bytes for as many chunks");
  refuses({kF32, 1, 65536, 65536, 1, chunked, 65536}, "chunks that cut the tensor");
  refuses({kF32, 2, 1 << 18, 100, 9, 1, kInContext | chunked, 9, 65536},
          "chunks that cut the tensor");
  refuses({kF32, 1, 1 << 21, 9, 1, kInContext, 0, 9}, "chunks that cut the tensor");
  refuses({kF32, 2, 1 << 13, 1 << 10, 9, 1, kInContext, 0, 9}, "chunks that cut the tensor");
}

TEST(FileReader, RefusesSizesThatTheFileCannotHoldBeforeMakingRoom) {
  Forged forged;
  const uint64_t huge = uint64_t{1} << 62;
  EXPECT_NE(forged({kF32, 2, huge, 4, 0}).find("at most 2^36"), std::string::npos);
  EXPECT_NE(forged({kF32, 1, 1 << 24, 1 << 24, 0, 0, 0}).find("sections before"),
            std::string::npos);
  EXPECT_NE(forged({kF32, 1, 4, 1, 0, kGaps, 0, 2, 0, huge}).find("size of the positions in"),
            std::string::npos);
  EXPECT_NE(forged({kF32, huge}).find("got no varint"), std::string::npos);
  EXPECT_EQ(forged({kF32, 2, huge, 0, 0}), "");  // an empty tensor
}

TEST(FileReader, RefusesMoreWeightsInTheCodesThanItsEntrySays) {
  // Fixed width 1: the codes 1 0 1 0 keep two weights, of one centroid.
  Forged forged;
  const auto keeps = [&](uint64_t kept) {
    return forged({kF32, 1, 4, kept, 1, kInCodes, 0, 2}, floats_text({1}) + bytes({1, 0b0101}));
  };
  EXPECT_EQ(keeps(2), "");
  EXPECT_NE(keeps(1).find("expected 1 kept weights, got 2"), std::string::npos) << keeps(1);
  EXPECT_NE(keeps(3).find("expected 3 kept weights, got 2"), std::string::npos) << keeps(3);
}

TEST(FileReader, RefusesCodebooksThatNoWriterWrites) {
  Forged forged;
  const auto shared = [&](int form, const std::string& codebook, bool has_size) {
    // Four weights of two centroids: fixed width 1, codes 0 1 0 1.
    std::vector<uint64_t> fields{kF32, 1, 4, 4, 2, 0, static_cast<uint64_t>(form)};
    if (has_size) fields.push_back(codebook.size());
    fields.push_back(2);  // bytes of codes
    return forged(fields, codebook + bytes({1, 0b1010}));
  };
  EXPECT_EQ(shared(0, floats_text({1, 2}), false), "");
  EXPECT_NE(shared(0, floats_text({2, 1}), false).find("w/codebook at byte 16"), std::string::npos);
  EXPECT_NE(shared(0, floats_text({1, 1}), false).find("ascending"), std::string::npos);
  // exponent 0, first 3 (zigzag 6), none left out: 3 and 4
  EXPECT_EQ(shared(4, bytes({0, 6, 0}), true), "");
  EXPECT_EQ(shared(4, bytes({0, 6, 1, 0b101}), true), "");
  EXPECT_NE(shared(4, bytes({0, 6, 1, 0b111}), true).find("2 numbers, got 3"), std::string::npos);
  EXPECT_NE(shared(4, bytes({0, 6, 1, 0b1001}), true).find("zero bits"), std::string::npos);
  EXPECT_NE(shared(4, bytes({0, 6, 1}), true).find("which are taken"), std::string::npos);
  EXPECT_NE(shared(4, bytes({0}), true).find("a first number"), std::string::npos);
  EXPECT_EQ(shared(3, bytes({0, 1, 0, 2, 0}), false), "");
}

TEST(FileReader, RefusesStreamsThatNoWriterWrites) {
  Forged forged;
  const auto with_positions = [&](int fillers, const std::string& positions) {
    return forged({kF32, 1, 8, 1, 1, kGaps, 0, 2, static_cast<uint64_t>(fillers), positions.size()},
                  floats_text({1}) + positions);
  };
  EXPECT_EQ(with_positions(0, bytes({0})), "");  // fixed width of 0 bits: the first weight
  EXPECT_EQ(with_positions(1, bytes({3, 0b011'100})), "");  // filler (4), gap 3
  EXPECT_NE(with_positions(1, bytes({3, 0b100'100})).find("w/positions at byte 21"),
            std::string::npos);  // no weight at the end
  EXPECT_NE(with_positions(0, bytes({3, 0b101})).find("symbols below 5, got 5"), std::string::npos);
  EXPECT_NE(with_positions(0, bytes({2, 0b1000001})).find("zero bits to the end"),
            std::string::npos);
  const auto with_bitmask = [&](int bits) {
    return forged({kF32, 1, 4, 2, 1, kBitmask, 0}, floats_text({1}) + bytes({bits}));
  };
  EXPECT_EQ(with_bitmask(0b0101), "");
  EXPECT_NE(with_bitmask(0b0111).find("2 kept weights, got 3"), std::string::npos);
  EXPECT_NE(with_bitmask(0b10101).find("zero bits to the end"), std::string::npos);
  const auto with_codes = [&](int codes) {  // width 1
    return forged({kF32, 1, 4, 2, 1, kInCodes, 0, 2}, floats_text({1}) + bytes({1, codes}));
  };
  EXPECT_EQ(with_codes(0b0101), "");
  EXPECT_NE(with_codes(0b0111).find("2 kept weights, got 3"), std::string::npos);
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
