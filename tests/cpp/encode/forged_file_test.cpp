#include "base/crc32c.h"
#include "base/little_endian.h"
#include "base/varint.h"
#include "encode/damaged.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace {

using pomona::append_little_endian;
using pomona::append_varint;
using pomona::crc32c;
using pomona::testing::Damaged;
using pomona::testing::file_of;

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

TEST(ForgedFile, RefusesEntriesThatNoWriterWrites) {
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

TEST(ForgedFile, RefusesChunksThatDoNotCutTheTensor) {
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

TEST(ForgedFile, RefusesSizesThatTheFileCannotHoldBeforeMakingRoom) {
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

TEST(ForgedFile, RefusesCodebooksThatNoWriterWrites) {
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

TEST(ForgedFile, RefusesStreamsThatNoWriterWrites) {
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

}  // namespace
