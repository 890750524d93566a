#include "base/varint.h"

#include <gtest/gtest.h>

#include <bit>

namespace {

TEST(Varint, ComesBackInTheFewestBytes) {
  for (int shift = 0; shift < 63; ++shift) {
    for (const uint64_t value : {uint64_t{1} << shift, (uint64_t{1} << shift) - 1}) {
      std::vector<std::byte> bytes;
      pomona::append_varint(bytes, value);
      EXPECT_EQ(bytes.size(), value == 0 ? 1u : (std::bit_width(value) + 6u) / 7u);
      size_t position = 0;
      EXPECT_EQ(pomona::read_varint(bytes, position), value);
      EXPECT_EQ(position, bytes.size());
    }
  }
}

TEST(Varint, IsRefusedWhenItsBytesEnd) {
  const std::vector<std::byte> cut{std::byte{0x80}};
  size_t position = 0;
  EXPECT_EQ(pomona::read_varint(cut, position), std::nullopt);
  EXPECT_EQ(position, 0u);
}

TEST(Varint, IsRefusedAbove63Bits) {
  const std::vector<std::byte> ten(10, std::byte{0x81});
  size_t position = 0;
  EXPECT_EQ(pomona::read_varint(ten, position), std::nullopt);
}

}  // namespace
