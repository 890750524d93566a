#include "base/bit_io.h"

#include <gtest/gtest.h>

#include <random>

namespace {

using pomona::BitReader;
using pomona::BitWriter;

std::vector<std::byte> bytes(std::initializer_list<int> values) {
  std::vector<std::byte> result;
  for (const int value : values) result.push_back(static_cast<std::byte>(value));
  return result;
}

TEST(BitWriter, FillsBytesFromTheLowestBitUp) {
  BitWriter out;
  out.put(1, 1);
  out.put(0b10, 2);
  out.put(0b11111, 5);
  out.put(1, 2);
  EXPECT_EQ(std::move(out).finish(), bytes({0b11111101, 1}));
}

TEST(BitWriter, WritesEliasGammaAsTheFormatSays) {
  BitWriter out;
  out.put_gamma(1);  // 1
  out.put_gamma(6);  // 0 0 1 0 1
  out.put_gamma(2);  // 0 1 0
  EXPECT_EQ(std::move(out).finish(), bytes({0b10101001, 0}));
}

TEST(BitReader, ReadsBackWhatWasWrittenAtEveryLength) {
  std::mt19937_64 rng(1);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<std::pair<uint64_t, int>> fields;
    BitWriter out;
    uint64_t size_bits = 0;
    for (uint64_t n = rng() % 60; n > 0; --n) {
      const int count = static_cast<int>(rng() % 33);
      const uint64_t bits = rng() & ((uint64_t{1} << count) - 1);
      fields.emplace_back(bits, count);
      out.put(bits, count);
      size_bits += static_cast<uint64_t>(count);
    }
    const auto written = std::move(out).finish();
    ASSERT_EQ(written.size(), (size_bits + 7) / 8);
    BitReader in(written);
    for (const auto& [bits, count] : fields) ASSERT_EQ(in.get(count), bits);
    ASSERT_EQ(in.position_bits(), size_bits);
    ASSERT_TRUE(in.is_at_end());
  }
}

TEST(BitReader, ReadsBackEveryGamma) {
  BitWriter out;
  for (uint64_t x = 1; x < (1 << 16); x += 1 + x / 64) out.put_gamma(x);
  const auto written = std::move(out).finish();
  BitReader in(written);
  for (uint64_t x = 1; x < (1 << 16); x += 1 + x / 64) ASSERT_EQ(in.get_gamma(), x);
  EXPECT_TRUE(in.is_at_end());
}

TEST(BitReader, RefusesAGammaOfSixteenZeros) {
  const auto zeros = bytes({0, 0, 255, 255});
  EXPECT_EQ(BitReader(zeros).get_gamma(), 0u);
  const auto none = bytes({});
  EXPECT_EQ(BitReader(none).get_gamma(), 0u);
}

TEST(BitReader, GivesZerosPastTheEndAndRemembers) {
  const auto one = bytes({255});
  BitReader in(one);
  EXPECT_EQ(in.get(8), 255u);
  EXPECT_FALSE(in.is_overrun());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(in.get(30), 0u);
  EXPECT_TRUE(in.is_overrun());
  EXPECT_FALSE(in.is_at_end());
}

TEST(BitReader, IsNotAtTheEndBeforeAWholeByteOrAOneBit) {
  const auto padded = bytes({0x01, 0x00});
  BitReader in(padded);
  in.get(8);
  EXPECT_FALSE(in.is_at_end());
  in.get(1);
  EXPECT_TRUE(in.is_at_end());
  const auto dirty = bytes({0x81});
  BitReader other(dirty);
  other.get(7);
  EXPECT_FALSE(other.is_at_end());
}

}  // namespace
