#include "pomona/encode.h"
#include "pomona/error.h"

#include "encode/gap_symbols.h"
#include "error_of.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace {

using pomona::InvalidArgument;
using pomona::Mask;
using pomona::relative_index;
using pomona::RelativeIndex;
using pomona::StoredEntry;
using pomona::testing::error_of;

Mask mask_at(int64_t size, const std::vector<int64_t>& positions) {
  Mask mask(size, false);
  for (const int64_t position : positions) mask.set(position, true);
  return mask;
}

using Gaps = std::vector<uint32_t>;

TEST(RelativeIndex, CountsTheZerosBeforeEachWeight) {
  const auto index = relative_index(mask_at(10, {0, 1, 5}), 3);
  EXPECT_EQ(index.gaps, (Gaps{0, 0, 3}));
  EXPECT_EQ(index.fillers, 0);
}

// Deep Compression, Figure 2: with 3 bits a filler is needed when the difference exceeds 8.
TEST(RelativeIndex, OfThreeBitsNeedsAFillerWhenTheDifferenceExceedsEight) {
  const uint32_t filler = 8;
  EXPECT_EQ(relative_index(mask_at(20, {0, 8}), 3).gaps, (Gaps{0, 7}));
  EXPECT_EQ(relative_index(mask_at(20, {0, 9}), 3).gaps, (Gaps{0, filler, 0}));
  EXPECT_EQ(relative_index(mask_at(20, {1, 4, 15}), 3).gaps, (Gaps{1, 2, filler, 2}));
}

TEST(RelativeIndex, HasNoSymbolForTheZerosAtTheEnd) {
  EXPECT_EQ(relative_index(mask_at(1000, {2}), 2).gaps, (Gaps{2}));
  EXPECT_TRUE(relative_index(Mask(1000, false), 2).gaps.empty());
  EXPECT_TRUE(relative_index(Mask(0), 2).gaps.empty());
}

// EIE §III-B: column [0,0,1,2,(18 zeros),3] is v = [1,2,0,3], z = [2,0,15,2].
TEST(StoredEntries, AreThoseOfEIEsExample) {
  const auto index = relative_index(mask_at(23, {2, 3, 22}), 4);
  const std::vector<uint8_t> codes{0, 1, 2};
  EXPECT_EQ(pomona::stored_entries(index, codes),
            (std::vector<StoredEntry>{{2, 1}, {0, 2}, {15, 0}, {2, 3}}));
}

TEST(StoredEntries, RefuseAnotherNumberOfCodes) {
  const auto index = relative_index(mask_at(23, {2, 3, 22}), 4);
  const std::vector<uint8_t> two{0, 1}, four{0, 1, 2, 3};
  EXPECT_EQ(error_of([&] { pomona::stored_entries(index, two); }),
            "stored_entries: expected `codes` for 3 weights, got 2.");
  EXPECT_EQ(error_of([&] { pomona::stored_entries(index, four); }),
            "stored_entries: expected `codes` for 3 weights, got 4.");
}

TEST(RelativeIndex, ComesBackAtEveryWidthAndDensity) {
  std::mt19937_64 rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const auto size = static_cast<int64_t>(rng() % 3000);
    const uint64_t rarity = 1 + rng() % 500;
    Mask mask(size, false);
    for (int64_t i = 0; i < size; ++i) mask.set(i, rng() % rarity == 0);
    for (int bits = pomona::kMinGapBits; bits <= pomona::kMaxGapBits; ++bits) {
      ASSERT_EQ(pomona::to_mask(relative_index(mask, bits), size), mask);
    }
  }
}

TEST(GapSymbols, ComeBackAtEveryWidthAndDensity) {
  std::mt19937_64 rng(3);
  for (int trial = 0; trial < 100; ++trial) {
    const auto size = static_cast<int64_t>(rng() % 100000);
    const uint64_t rarity = 1 + rng() % (rng() % 2 == 0 ? 100 : 40000);
    Mask mask(size, false);
    for (int64_t i = 0; i < size; ++i) mask.set(i, rng() % rarity == 0);
    for (int bits = pomona::kMinGapBits; bits <= pomona::kMaxGapBits; ++bits) {
      const auto gaps = pomona::gap_symbols(mask.words(), mask.kept(), bits);
      for (const uint8_t symbol : gaps.symbols) ASSERT_LT(symbol, pomona::gap_alphabet(bits));
      ASSERT_EQ(gaps.fillers, relative_index(mask, bits).fillers);
      const auto words =
          pomona::words_from_gaps(gaps.symbols, gaps.extra, gaps.fillers, size, bits);
      ASSERT_EQ(Mask(size, words), mask) << "bits " << bits;
    }
  }
}

TEST(GapSymbols, AreBytesWhoseAlphabetGrowsByEightForEachBitFromSevenOn) {
  EXPECT_EQ(pomona::gap_alphabet(2), 5);
  EXPECT_EQ(pomona::gap_alphabet(7), 129);
  EXPECT_EQ(pomona::gap_alphabet(8), 137);
  EXPECT_EQ(pomona::gap_alphabet(16), 201);
}

// 300 = 0b1'001'01100: 2^8 with the bits 001, and 01100 apart.
TEST(GapSymbols, OfALargeGapHaveItsLowBitsApart) {
  const auto gaps = pomona::gap_symbols(mask_at(1000, {300}).words(), 1, 16);
  EXPECT_EQ(gaps.symbols, (std::vector<uint8_t>{128 + 8 + 1}));
  EXPECT_EQ(gaps.extra, (std::vector<std::byte>{std::byte{0b01100}}));
}

TEST(GapSymbols, OfAnotherMaskAreRefused) {
  const auto error = [](std::vector<uint8_t> symbols, int64_t fillers, int bits,
                        std::vector<std::byte> extra = {}) {
    try {
      pomona::words_from_gaps(symbols, extra, fillers, 10, bits);
    } catch (const pomona::CorruptFile& damage) {
      return std::string(damage.what());
    }
    return std::string();
  };
  EXPECT_EQ(error({9}, 0, 4), "");
  EXPECT_NE(error({10}, 0, 4).find("positions below 10, got 10"), std::string::npos);
  EXPECT_NE(error({4}, 1, 2).find("got a filler"), std::string::npos);
  EXPECT_NE(error({4, 1}, 0, 2).find("0 fillers, got 1"), std::string::npos);
  EXPECT_NE(error({1}, 0, 8, {std::byte{0}}).find("no more"), std::string::npos);
}

TEST(BestGapBits, IsTheWidthOfTheFewestBits) {
  std::mt19937_64 rng(2);
  for (const uint64_t rarity : {2, 5, 20, 100, 1000}) {
    Mask mask(20000, false);
    for (int64_t i = 0; i < mask.size(); ++i) mask.set(i, rng() % rarity == 0);
    const auto coded_bytes = [&](int bits) {
      const auto gaps = pomona::gap_symbols(mask.words(), mask.kept(), bits);
      return pomona::encode_symbols(gaps.symbols, pomona::gap_alphabet(bits)).size() +
             gaps.extra.size();
    };
    const size_t best = coded_bytes(pomona::best_gap_bits(mask));
    for (int bits = pomona::kMinGapBits; bits <= pomona::kMaxGapBits; ++bits) {
      EXPECT_LE(best, coded_bytes(bits) + 3) << "rarity " << rarity << ", bits " << bits;
    }
  }
}

TEST(RelativeIndex, RefusesWidthsOutsideTwoToSixteen) {
  EXPECT_EQ(error_of([] { relative_index(Mask(1), 1); }),
            "relative index: expected `gap_bits` in 2..16, got 1.");
  EXPECT_NE(error_of([] { relative_index(Mask(1), 17); }).find("got 17"), std::string::npos);
}

TEST(ToMask, RefusesWhatRelativeIndexWouldNotMake) {
  const auto error = [](RelativeIndex index) {
    return error_of([&] { pomona::to_mask(index, 10); });
  };
  EXPECT_NE(error({.gap_bits = 2, .gaps = {5}}).find("at most 4, got 5"), std::string::npos);
  EXPECT_NE(error({.gap_bits = 4, .gaps = {10}}).find("below 10, got 10"), std::string::npos);
  EXPECT_NE(error({.gap_bits = 2, .gaps = {4}, .fillers = 1}).find("got a filler"),
            std::string::npos);
  EXPECT_NE(error({.gap_bits = 2, .gaps = {4, 1}}).find("0 fillers, got 1"), std::string::npos);
}

}  // namespace
