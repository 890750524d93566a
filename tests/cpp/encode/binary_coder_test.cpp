#include "encode/binary_coder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace {

using pomona::BinaryDecoder;
using pomona::BinaryEncoder;
using pomona::CorruptFile;

struct Decision {
  bool bit;
  uint32_t p;
};

// Bits as likely as they are said to be.
std::vector<Decision> random_decisions(std::mt19937_64& rng, size_t count, uint32_t least) {
  std::vector<Decision> decisions(count);
  for (auto& [bit, p] : decisions) {
    p = least + static_cast<uint32_t>(rng() % (65536 - 2 * least));
    bit = rng() % 65536 < p;
  }
  return decisions;
}

std::vector<std::byte> encode(const std::vector<Decision>& decisions) {
  BinaryEncoder encoder;
  for (const auto& [bit, p] : decisions) encoder.code(bit, p);
  return std::move(encoder).finish();
}

TEST(BinaryCoder, DecisionsComeBack) {
  std::mt19937_64 rng(1);
  for (size_t count = 0; count < 400; ++count) {
    const auto decisions = random_decisions(rng, count, 1);
    const auto bytes = encode(decisions);
    BinaryDecoder decoder(bytes);
    for (const auto& [bit, p] : decisions) ASSERT_EQ(decoder.code(false, p), bit);
    EXPECT_NO_THROW(decoder.finish());
  }
}

TEST(BinaryCoder, TheUnlikelyComesBackAsWell) {
  std::vector<Decision> decisions;
  for (int i = 0; i < 3000; ++i) decisions.push_back({i % 2 == 0, i % 2 == 0 ? 1u : 65535u});
  const auto bytes = encode(decisions);
  BinaryDecoder decoder(bytes);
  for (const auto& [bit, p] : decisions) ASSERT_EQ(decoder.code(false, p), bit);
  EXPECT_NO_THROW(decoder.finish());
}

TEST(BinaryCoder, SizeIsTheEntropyAndAByte) {
  std::mt19937_64 rng(2);
  const auto decisions = random_decisions(rng, 200000, 300);
  double bits = 0;
  for (const auto& [bit, p] : decisions) bits -= std::log2((bit ? p : 65536 - p) / 65536.0);
  EXPECT_NEAR(static_cast<double>(encode(decisions).size()), bits / 8, 2 + 1e-4 * bits / 8);
}

TEST(BinaryCoder, WhatIsCertainTakesNoBytes) {
  EXPECT_TRUE(encode({}).empty());
  EXPECT_TRUE(encode({{true, 65535}, {true, 65535}, {true, 65535}}).empty());
  EXPECT_LE(encode(std::vector<Decision>(1000, {false, 1})).size(), 1u);
}

TEST(BinaryCoder, RefusesBytesThatAreLeftOver) {
  std::mt19937_64 rng(3);
  const auto decisions = random_decisions(rng, 300, 1000);
  auto bytes = encode(decisions);
  for (int more = 0; more < 5; ++more) {
    bytes.push_back(std::byte{0});
    BinaryDecoder decoder(bytes);
    for (const auto& [bit, p] : decisions) ASSERT_EQ(decoder.code(false, p), bit);
    EXPECT_THROW(decoder.finish(), CorruptFile);
  }
}

// Whatever passes finish() is what an encoder writes: no two byte strings hold the same decisions.
TEST(BinaryCoder, BytesThatPassAreThoseOfTheirDecisions) {
  std::mt19937_64 rng(4);
  int passed = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::vector<std::byte> bytes(rng() % 6);
    for (auto& byte : bytes) byte = static_cast<std::byte>(rng());
    auto decisions = random_decisions(rng, 4 + rng() % 40, 1000);
    BinaryDecoder decoder(bytes);
    for (auto& [bit, p] : decisions) bit = decoder.code(false, p);
    try {
      decoder.finish();
    } catch (const CorruptFile&) {
      EXPECT_NE(encode(decisions), bytes);
      continue;
    }
    EXPECT_EQ(encode(decisions), bytes);
    ++passed;
  }
  EXPECT_GT(passed, 10);
}

}  // namespace
