#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string_view>
#include <vector>

namespace {

uint32_t crc_of(std::string_view text) {
  return pomona::crc32c(std::as_bytes(std::span(text)));
}

// The definition: one bit at a time.
uint32_t crc_by_definition(std::span<const std::byte> bytes) {
  uint32_t remainder = 0xFFFFFFFF;
  for (const std::byte byte : bytes) {
    remainder ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? 0x82F63B78 : 0);
    }
  }
  return ~remainder;
}

TEST(Crc32c, GivesTheCheckValueOfTheStandard) {
  EXPECT_EQ(crc_of("123456789"), 0xE3069283);
  EXPECT_EQ(crc_of(""), 0u);
  EXPECT_EQ(crc_of(std::string_view(
                "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32)),
            0x8A9136AA);  // RFC 3720, B.4
}

TEST(Crc32c, IsTheSameWithAndWithoutTheInstructionAtEverySizeAndAlignment) {
  std::mt19937_64 rng(1);
  std::vector<std::byte> bytes(300);
  for (auto& byte : bytes) byte = static_cast<std::byte>(rng());
  for (size_t start = 0; start < 9; ++start) {
    for (size_t size = 0; start + size <= bytes.size(); ++size) {
      const auto part = std::span(bytes).subspan(start, size);
      ASSERT_EQ(pomona::crc32c(part), crc_by_definition(part));
      ASSERT_EQ(pomona::crc32c_portable(part), crc_by_definition(part));
    }
  }
}

}  // namespace
