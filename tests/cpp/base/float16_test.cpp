#include "base/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace {

using pomona::bfloat16_from_float;
using pomona::float16_from_float;
using pomona::float_from_bfloat16;
using pomona::float_from_float16;

// The definition, in double: sign * fraction * 2^exponent. REQUIRES: finite.
double float16_by_definition(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -magnitude : magnitude;
}

TEST(Float16, WidensAsDefined) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7c00) == 0x7c00) continue;
    const auto half = static_cast<uint16_t>(bits);
    ASSERT_EQ(double{float_from_float16(half)}, float16_by_definition(half)) << bits;
    ASSERT_EQ(std::signbit(float_from_float16(half)), bits >> 15 == 1) << bits;
  }
}

TEST(Float16, EveryPatternComesBackNaNsIncluded) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    ASSERT_EQ(float16_from_float(float_from_float16(half)), half);
    ASSERT_EQ(bfloat16_from_float(float_from_bfloat16(half)), half);
  }
}

// Nearest by search over both neighbours; ties to the even pattern.
TEST(Float16, NarrowsToNearestTiesToEven) {
  for (uint16_t low = 0; low < 0x7bff; ++low) {
    const float a = float_from_float16(low), b = float_from_float16(static_cast<uint16_t>(low + 1));
    const float middle = (a + b) / 2;  // exact in float
    const auto even = static_cast<uint16_t>(low + (low & 1));
    ASSERT_EQ(float16_from_float(middle), even);
    ASSERT_EQ(float16_from_float(std::nextafter(middle, a)), low);
    ASSERT_EQ(float16_from_float(std::nextafter(middle, b)), low + 1);
    ASSERT_EQ(float16_from_float(-middle), even | 0x8000);
  }
}

TEST(Float16, OverflowsToInfinityFromHalfwayOn) {
  EXPECT_EQ(float16_from_float(65519.996f), 0x7bff);
  EXPECT_EQ(float16_from_float(65520.0f), 0x7c00);
  EXPECT_EQ(float16_from_float(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_EQ(float16_from_float(std::numeric_limits<float>::max()), 0x7c00);
}

TEST(Float16, UnderflowsToZeroOfItsSign) {
  EXPECT_EQ(float16_from_float(std::ldexp(1.0f, -25)), 0x0000);
  EXPECT_EQ(float16_from_float(-std::ldexp(1.0f, -25)), 0x8000);
  EXPECT_EQ(float16_from_float(std::numeric_limits<float>::denorm_min()), 0x0000);
}

TEST(Float16, ANaNStaysANaNWhenItsPayloadDoesNotFit) {
  const auto tiny_payload = std::bit_cast<float>(0x7f800001u);
  EXPECT_TRUE(std::isnan(float_from_float16(float16_from_float(tiny_payload))));
  EXPECT_TRUE(std::isnan(float_from_bfloat16(bfloat16_from_float(tiny_payload))));
  EXPECT_TRUE(
      std::isnan(float_from_bfloat16(bfloat16_from_float(std::bit_cast<float>(0x7fffffffu)))));
}

TEST(BFloat16, NarrowsToNearestTiesToEven) {
  for (uint32_t low = 0; low < 0x7f80; ++low) {
    const uint32_t middle = (low << 16) | 0x8000;
    const auto even = low + (low & 1);
    ASSERT_EQ(bfloat16_from_float(std::bit_cast<float>(middle)), even);
    ASSERT_EQ(bfloat16_from_float(std::bit_cast<float>(middle - 1)), low);
    ASSERT_EQ(bfloat16_from_float(std::bit_cast<float>(middle + 1)), low + 1);
  }
}

}  // namespace
