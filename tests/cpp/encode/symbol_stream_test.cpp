#include "pomona/encode.h"
#include "pomona/error.h"

#include "base/bit_io.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace {

using pomona::BitWriter;
using pomona::CorruptFile;
using pomona::decode_codes;
using pomona::decode_gaps;
using pomona::encode_symbols;
using pomona::InvalidArgument;

using Codes = std::vector<uint8_t>;
using Gaps = std::vector<uint16_t>;

template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

// Symbols with a skewed distribution.
Gaps random_symbols(std::mt19937_64& rng, size_t count, uint64_t alphabet) {
  Gaps symbols(count);
  for (auto& symbol : symbols) symbol = static_cast<uint16_t>(rng() % (1 + rng() % alphabet));
  return symbols;
}

TEST(SymbolStream, ComesBackForEveryAlphabetAndCount) {
  std::mt19937_64 rng(1);
  for (const int64_t alphabet : {1, 2, 3, 5, 31, 32, 33, 255, 256, 257}) {
    for (const size_t count : {0, 1, 2, 3, 4, 5, 63, 64, 65, 1000, 5000}) {
      const auto symbols = random_symbols(rng, count, static_cast<uint64_t>(alphabet));
      const auto bytes = encode_symbols(symbols, alphabet);
      ASSERT_EQ(decode_gaps(bytes, static_cast<int64_t>(count), alphabet), symbols);
      if (alphabet > 256) continue;
      const Codes codes(symbols.begin(), symbols.end());
      ASSERT_EQ(encode_symbols(codes, alphabet), bytes);
      ASSERT_EQ(decode_codes(bytes, static_cast<int64_t>(count), alphabet), codes);
    }
  }
}

TEST(SymbolStream, OfAMillionSymbolsComesBack) {
  std::mt19937_64 rng(2);
  const auto symbols = random_symbols(rng, 1'000'000, 257);
  EXPECT_EQ(decode_gaps(encode_symbols(symbols, 257), 1'000'000, 257), symbols);
}

TEST(SymbolStream, OfOneSymbolTakesNoBitsPerSymbol) {
  EXPECT_EQ(encode_symbols(Codes(100000, 0), 200).size(), 1u);
  const auto bytes = encode_symbols(Codes(100000, 7), 200);
  EXPECT_LE(bytes.size(), 4u);
  EXPECT_EQ(decode_codes(bytes, 100000, 200), Codes(100000, 7));
}

TEST(SymbolStream, IsOfFixedWidthWhereATableDoesNotPay) {
  // 0 | width 2 | 0 3 1 2
  EXPECT_EQ(encode_symbols(Codes{0, 3, 1, 2}, 4),
            (std::vector<std::byte>{std::byte{0x84}, std::byte{0x13}}));
}

TEST(SymbolStream, TakesTheBitsThatCodedSizeSays) {
  std::mt19937_64 rng(3);
  for (int trial = 0; trial < 100; ++trial) {
    const auto symbols = random_symbols(rng, rng() % 300, 40);
    const auto bits = pomona::coded_size_bits(pomona::histogram(symbols, 40));
    ASSERT_EQ(encode_symbols(symbols, 40).size(), (bits + 7) / 8);
  }
}

TEST(SymbolStream, IsShorterThanFixedWidthForSkewedSymbols) {
  Codes codes(10000);
  for (size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<uint8_t>(i % 16 == 0 ? i % 31 : 1);
  EXPECT_LT(encode_symbols(codes, 31).size(), 10000 * 2 / 8);
}

TEST(SymbolStream, RefusesToEncodeSymbolsOutsideTheAlphabet) {
  EXPECT_EQ(error_of([] {
              encode_symbols(Codes{1, 5}, 5);
            }),
            "symbols: expected symbols below 5, got 5 at 1.");
  EXPECT_EQ(error_of([] { encode_symbols(Codes{}, 0); }),
            "symbols: expected `alphabet` in 1..257, got 0.");
  EXPECT_THROW(pomona::histogram(Gaps{300}, 258), InvalidArgument);
  EXPECT_THROW(decode_codes({}, 0, 257), InvalidArgument);
  EXPECT_THROW(decode_gaps({}, -1, 257), InvalidArgument);
}

TEST(SymbolStream, RefusesEveryPrefixAndEveryLongerString) {
  std::mt19937_64 rng(4);
  for (const size_t count : {3, 50, 900}) {
    const auto symbols = random_symbols(rng, count, 20);
    auto bytes = encode_symbols(symbols, 20);
    const auto n = static_cast<int64_t>(count);
    for (size_t size = 0; size < bytes.size(); ++size) {
      ASSERT_THROW(decode_gaps(std::span(bytes).first(size), n, 20), CorruptFile) << size;
    }
    bytes.push_back(std::byte{0});
    ASSERT_THROW(decode_gaps(bytes, n, 20), CorruptFile);
  }
}

TEST(SymbolStream, SurvivesEveryFlippedBit) {
  std::mt19937_64 rng(5);
  const auto symbols = random_symbols(rng, 300, 20);
  auto bytes = encode_symbols(symbols, 20);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    try {
      for (const uint16_t symbol : decode_gaps(bytes, 300, 20)) ASSERT_LT(symbol, 20);
    } catch (const CorruptFile&) {
    }
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

// A stream made by hand: the table of `lengths`, then `payload`.
std::vector<std::byte> with_table(const std::vector<int>& lengths, uint64_t payload, int bits) {
  BitWriter out;
  out.put(1, 1);
  out.put_gamma(lengths.size());
  int before = 4;
  for (const int length : lengths) {
    const int d = length - before;
    out.put_gamma(static_cast<uint64_t>(d >= 0 ? 2 * d + 1 : -2 * d));
    before = length;
  }
  out.put(payload, bits);
  return std::move(out).finish();
}

TEST(SymbolStream, DecodesATableMadeByHand) {
  EXPECT_EQ(decode_codes(with_table({1, 2, 2}, 0b01110, 5), 3, 3), (Codes{0, 2, 1}));
}

TEST(SymbolStream, RefusesBrokenTables) {
  const auto error = [](const std::vector<int>& lengths) {
    return error_of([&] { decode_codes(with_table(lengths, 0, 8), 8, 4); });
  };
  EXPECT_NE(error({1, 1, 1}).find("over-subscribed"), std::string::npos);
  EXPECT_NE(error({2, 2, 2}).find("under-subscribed"), std::string::npos);
  EXPECT_NE(error({0, 2}).find("single symbol, got 2"), std::string::npos);
  EXPECT_NE(error({1, 1, 0}).find("last symbol of the table"), std::string::npos);
  EXPECT_NE(error({13, 1}).find("0..12"), std::string::npos);
  EXPECT_NE(error({-1, 1}).find("0..12"), std::string::npos);
  EXPECT_NE(error({1, 2, 3, 4, 4}).find("1 to 4 code lengths, got 5"), std::string::npos);
}

TEST(SymbolStream, RefusesACountThatItsBytesCannotHoldBeforeMakingRoom) {
  const int64_t huge = int64_t{1} << 50;
  const auto bytes = encode_symbols(Codes{0, 3, 1, 2}, 4);
  EXPECT_NE(error_of([&] { decode_codes(bytes, huge, 4); }).find("symbols, got 2 bytes"),
            std::string::npos);
}

TEST(SymbolStream, RefusesFixedWidthSymbolsOutsideTheAlphabetOrTooWide) {
  const auto bytes = encode_symbols(Codes{0, 3, 1, 2}, 4);
  EXPECT_NE(error_of([&] { decode_codes(bytes, 4, 3); }).find("below 3, got 3"), std::string::npos);
  const std::vector<std::byte> wide{std::byte{10 << 1}};
  EXPECT_NE(error_of([&] { decode_codes(wide, 0, 3); }).find("at most 9 bits, got 10"),
            std::string::npos);
}

}  // namespace
