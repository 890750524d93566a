#include "pomona/encode.h"
#include "pomona/error.h"

#include "error_of.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <queue>
#include <random>
#include <string>

namespace {

using pomona::canonical_codes;
using pomona::huffman_lengths;
using pomona::InvalidArgument;
using pomona::testing::error_of;

using Counts = std::vector<uint64_t>;
using Lengths = std::vector<uint8_t>;

uint64_t cost(const Counts& counts, const Lengths& lengths) {
  uint64_t bits = 0;
  for (size_t symbol = 0; symbol < counts.size(); ++symbol)
    bits += counts[symbol] * lengths[symbol];
  return bits;
}

// Huffman's own construction: the sum of all merged weights is the cost of the best code.
uint64_t cost_by_huffmans_tree(const Counts& counts) {
  std::priority_queue<uint64_t, Counts, std::greater<>> trees;
  for (const uint64_t count : counts) {
    if (count > 0) trees.push(count);
  }
  uint64_t bits = 0;
  while (trees.size() > 1) {
    const uint64_t a = trees.top();
    trees.pop();
    const uint64_t b = trees.top();
    trees.pop();
    bits += a + b;
    trees.push(a + b);
  }
  return bits;
}

// The least cost of all complete codes within the limit, by trying all.
uint64_t cost_by_search(const Counts& counts, int limit) {
  uint64_t least = UINT64_MAX;
  const std::function<void(size_t, uint64_t, uint64_t)> choose = [&](size_t symbol, uint64_t room,
                                                                     uint64_t bits) {
    if (symbol == counts.size()) {
      if (room == 0) least = std::min(least, bits);
      return;
    }
    for (int length = 1; length <= limit; ++length) {
      const uint64_t share = uint64_t{1} << (limit - length);
      if (share <= room) {
        choose(symbol + 1, room - share, bits + counts[symbol] * static_cast<uint64_t>(length));
      }
    }
  };
  choose(0, uint64_t{1} << limit, 0);
  return least;
}

Counts random_counts(std::mt19937_64& rng, size_t symbols) {
  Counts counts(symbols);
  for (auto& count : counts) count = uint64_t{1} << (rng() % 12), count += rng() % count;
  return counts;
}

TEST(HuffmanLengths, AssignsShorterCodesToFrequentSymbols) {
  EXPECT_EQ(huffman_lengths(Counts{1, 8, 2, 4}), (Lengths{3, 1, 3, 2}));
}

TEST(HuffmanLengths, LeavesOutSymbolsThatDoNotOccur) {
  EXPECT_EQ(huffman_lengths(Counts{0, 5, 0, 5, 0}), (Lengths{0, 1, 0, 1, 0}));
  EXPECT_EQ(huffman_lengths(Counts{0, 7}), (Lengths{0, 1}));
  EXPECT_EQ(huffman_lengths(Counts{0, 0}), (Lengths{0, 0}));
  EXPECT_EQ(huffman_lengths(Counts{}), Lengths{});
}

TEST(HuffmanLengths, CostAsMuchAsHuffmansTreeWhenTheLimitDoesNotBind) {
  std::mt19937_64 rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const Counts counts = random_counts(rng, 2 + rng() % 15);
    ASSERT_EQ(cost(counts, huffman_lengths(counts, 15)), cost_by_huffmans_tree(counts));
  }
}

TEST(HuffmanLengths, CostLeastAmongCodesWithinTheLimit) {
  std::mt19937_64 rng(2);
  for (int trial = 0; trial < 100; ++trial) {
    const Counts counts = random_counts(rng, 2 + rng() % 6);
    for (const int limit : {3, 4}) {
      const auto lengths = huffman_lengths(counts, limit);
      ASSERT_LE(*std::ranges::max_element(lengths), limit);
      ASSERT_EQ(cost(counts, lengths), cost_by_search(counts, limit));
    }
  }
}

TEST(HuffmanLengths, MakeACompleteCodeForFibonacciCountsOfAWholeAlphabet) {
  Counts counts{1, 1};
  while (counts.size() < 60) counts.push_back(counts.back() + counts[counts.size() - 2]);
  counts.resize(45);  // unlimited codes would have 44 bits
  const auto lengths = huffman_lengths(counts);
  EXPECT_NO_THROW(canonical_codes(lengths));
  EXPECT_LE(*std::ranges::max_element(lengths), pomona::kMaxCodeLength);
}

TEST(HuffmanLengths, RefuseWhatHasNoCode) {
  EXPECT_EQ(error_of([] {
              huffman_lengths(Counts{1, 1, 1}, 1);
            }),
            "huffman_lengths: expected at most 2 symbols for codes of 1 bits, got 3.");
  EXPECT_NE(error_of([] { huffman_lengths(Counts{1}, 0); }).find("1..15, got 0"),
            std::string::npos);
  EXPECT_NE(error_of([] { huffman_lengths(Counts{1}, 16); }).find("got 16"), std::string::npos);
  EXPECT_NE(error_of([] {
              huffman_lengths(Counts{1, UINT64_MAX});
            }).find("2^48"),
            std::string::npos);
}

TEST(CanonicalCodes, AreTheExampleOfTheFormat) {
  EXPECT_EQ(canonical_codes(Lengths{2, 3, 1, 0, 3}),
            (std::vector<uint16_t>{0b10, 0b110, 0b0, 0, 0b111}));
  EXPECT_EQ(canonical_codes(Lengths{0, 1}), (std::vector<uint16_t>{0, 0}));
}

TEST(CanonicalCodes, AreFreeOfPrefixes) {
  std::mt19937_64 rng(3);
  const auto lengths = huffman_lengths(random_counts(rng, 100));
  const auto codes = canonical_codes(lengths);
  for (size_t a = 0; a < codes.size(); ++a) {
    for (size_t b = 0; b < codes.size(); ++b) {
      if (a == b || lengths[a] > lengths[b]) continue;
      ASSERT_NE(codes[a], codes[b] >> (lengths[b] - lengths[a])) << a << " and " << b;
    }
  }
}

TEST(CanonicalCodes, RefuseLengthsThatMakeNoCompleteCode) {
  const auto error = [](const Lengths& lengths) {
    return error_of([&] { canonical_codes(lengths); });
  };
  EXPECT_EQ(error({1, 1, 1}),
            "canonical_codes: expected a complete Huffman code, got an over-subscribed one.");
  EXPECT_NE(error({2, 2, 2}).find("under-subscribed"), std::string::npos);
  EXPECT_NE(error({}).find("under-subscribed"), std::string::npos);
  EXPECT_NE(error({0, 2}).find("length 1 for a single symbol, got 2"), std::string::npos);
  EXPECT_NE(error({16, 1}).find("at most 15, got 16"), std::string::npos);
}

}  // namespace
