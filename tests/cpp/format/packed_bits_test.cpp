#include "pomona/packed_bits.h"

#include "pomona/error.h"

#include <gtest/gtest.h>

#include <vector>

namespace {

using pomona::InvalidArgument;

TEST(PackedBits, ComeBackAtEveryWidth) {
  for (const int bits : {1, 2, 4, 8}) {
    for (const size_t count : {0u, 1u, 7u, 8u, 9u, 63u}) {
      std::vector<uint8_t> codes(count);
      for (size_t i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>((i * 37) % (1u << bits));
      const auto packed = pomona::pack_bits(codes, bits);
      EXPECT_EQ(static_cast<int64_t>(packed.size()),
                pomona::packed_size(static_cast<int64_t>(count), bits));
      EXPECT_EQ(pomona::unpack_bits(packed, static_cast<int64_t>(count), bits), codes);
    }
  }
}

TEST(PackedBits, LowBitsComeFirst) {
  const std::vector<uint8_t> codes{1, 2, 3};
  EXPECT_EQ(pomona::pack_bits(codes, 4), (std::vector<uint8_t>{0x21, 0x03}));
}

TEST(PackedBits, StorageBitsIsTheLeastThatFits) {
  EXPECT_EQ(pomona::storage_bits(2), 1);
  EXPECT_EQ(pomona::storage_bits(3), 2);
  EXPECT_EQ(pomona::storage_bits(17), 8);
  EXPECT_THROW(pomona::storage_bits(0), InvalidArgument);
  EXPECT_THROW(pomona::storage_bits(257), InvalidArgument);
}

TEST(PackedBits, RefusesWidthsAndCodesThatDoNotFit) {
  const std::vector<uint8_t> codes{4};
  EXPECT_THROW(pomona::packed_size(1, 3), InvalidArgument);
  EXPECT_THROW(pomona::pack_bits(codes, 2), InvalidArgument);
  EXPECT_THROW(pomona::unpack_bits(codes, 3, 4), InvalidArgument);
}

}  // namespace
