#include "encode/symbol_coder.h"

#include "pomona/encode.h"
#include "pomona/error.h"
#include "pomona/file.h"

#include "base/bit_io.h"
#include "error_of.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace {

using pomona::BitWriter;
using pomona::Coder;
using pomona::CorruptFile;
using pomona::decode_symbols;
using pomona::encode_symbols;
using pomona::InvalidArgument;
using pomona::testing::error_of;

using Symbols = std::vector<uint8_t>;

constexpr Coder kCoders[] = {Coder::kFixed, Coder::kHuffman, Coder::kRans};

// Symbols with a skewed distribution.
Symbols random_symbols(std::mt19937_64& rng, size_t count, uint64_t alphabet) {
  Symbols symbols(count);
  for (auto& symbol : symbols) symbol = static_cast<uint8_t>(rng() % (1 + rng() % alphabet));
  return symbols;
}

TEST(SymbolCoder, GivesSymbolsOfEveryAlphabetAndCountBack) {
  std::mt19937_64 rng(1);
  for (const Coder coder : kCoders) {
    for (const int64_t alphabet : {1, 2, 3, 5, 31, 32, 33, 255, 256}) {
      for (const size_t count : {0, 1, 2, 3, 4, 5, 63, 64, 65, 1000, 5000, 70000}) {
        const auto symbols = random_symbols(rng, count, static_cast<uint64_t>(alphabet));
        const auto bytes = encode_symbols(symbols, alphabet, coder);
        ASSERT_EQ(decode_symbols(bytes, static_cast<int64_t>(count), alphabet, coder), symbols)
            << pomona::coder_name(coder) << ' ' << alphabet << ' ' << count;
      }
    }
  }
}

TEST(SymbolCoder, TakesNoBitsForASymbolThatIsAlone) {
  for (const Coder coder : {Coder::kHuffman, Coder::kRans}) {
    const auto bytes = encode_symbols(Symbols(100000, 7), 200, coder);
    EXPECT_LE(bytes.size(), 5u);
    EXPECT_EQ(decode_symbols(bytes, 100000, 200, coder), Symbols(100000, 7));
  }
}

TEST(SymbolCoder, OfFixedWidthPutsSymbolsSideBySide) {
  // width 2 | 0 3 1 2
  EXPECT_EQ(encode_symbols(Symbols{0, 3, 1, 2}, 4, Coder::kFixed),
            (std::vector<std::byte>{std::byte{2}, std::byte{0x9C}}));
}

TEST(SymbolCoder, TakesAboutTheBitsThatCodedSizeSays) {
  std::mt19937_64 rng(3);
  for (const Coder coder : kCoders) {
    for (int trial = 0; trial < 50; ++trial) {
      const auto symbols = random_symbols(rng, 2000 + rng() % 300, 40);
      const double bits = pomona::coded_size_bits(pomona::histogram(symbols, 40), coder);
      const double bytes = static_cast<double>(encode_symbols(symbols, 40, coder).size());
      // Padding, the sizes of streams and the states of rANS.
      ASSERT_GE(bytes + 1, bits / 8);
      ASSERT_LE(bytes, bits / 8 + (coder == Coder::kRans ? 140 : 20));
    }
  }
}

TEST(SymbolCoder, RefusesToEncodeWhatItCannot) {
  EXPECT_EQ(error_of<std::exception>([] {
              encode_symbols(Symbols{1, 5}, 5);
            }),
            "symbols: expected symbols below 5, got 5 at 1.");
  EXPECT_EQ(error_of<std::exception>([] { encode_symbols(Symbols{}, 0); }),
            "symbols: expected `alphabet` in 1..256, got 0.");
  EXPECT_EQ(error_of<std::exception>([] { encode_symbols(Symbols{1}, 2, Coder::kContext); }),
            "symbols: expected `coder` fixed, Huffman or rANS, got number 3.");
  EXPECT_THROW(decode_symbols({}, 0, 257), InvalidArgument);
  EXPECT_THROW(decode_symbols({}, -1, 256), InvalidArgument);
}

TEST(SymbolCoder, RefusesEveryPrefixAndEveryLongerString) {
  std::mt19937_64 rng(4);
  for (const Coder coder : kCoders) {
    for (const size_t count : {3, 50, 900}) {
      const auto symbols = random_symbols(rng, count, 20);
      auto bytes = encode_symbols(symbols, 20, coder);
      const auto n = static_cast<int64_t>(count);
      for (size_t size = 0; size < bytes.size(); ++size) {
        ASSERT_THROW(decode_symbols(std::span(bytes).first(size), n, 20, coder), CorruptFile)
            << size;
      }
      bytes.push_back(std::byte{0});
      ASSERT_THROW(decode_symbols(bytes, n, 20, coder), CorruptFile);
    }
  }
}

TEST(SymbolCoder, SurvivesEveryFlippedBit) {
  std::mt19937_64 rng(5);
  const auto symbols = random_symbols(rng, 300, 20);
  for (const Coder coder : kCoders) {
    auto bytes = encode_symbols(symbols, 20, coder);
    for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
      try {
        for (const uint8_t symbol : decode_symbols(bytes, 300, 20, coder)) ASSERT_LT(symbol, 20);
      } catch (const CorruptFile&) {
      }
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    }
  }
}

// A table of Huffman made by hand, then `payload`.
std::vector<std::byte> with_table(const std::vector<int>& lengths, uint64_t payload, int bits) {
  BitWriter out;
  out.put_gamma(lengths.size());
  int before = 4;
  for (const int length : lengths) {
    const int d = length - before;
    out.put_gamma(static_cast<uint64_t>(d >= 0 ? 2 * d + 1 : -2 * d));
    before = length;
  }
  auto bytes = std::move(out).finish();
  BitWriter codes;
  codes.put(payload, bits);
  for (const std::byte byte : std::move(codes).finish()) bytes.push_back(byte);
  return bytes;
}

TEST(SymbolCoder, DecodesATableMadeByHand) {
  EXPECT_EQ(decode_symbols(with_table({1, 2, 2}, 0b01110, 5), 3, 3), (Symbols{0, 2, 1}));
}

TEST(SymbolCoder, RefusesBrokenTables) {
  const auto error = [](const std::vector<int>& lengths) {
    return error_of<std::exception>([&] { decode_symbols(with_table(lengths, 0, 8), 8, 4); });
  };
  EXPECT_NE(error({1, 1, 1}).find("over-subscribed"), std::string::npos);
  EXPECT_NE(error({2, 2, 2}).find("under-subscribed"), std::string::npos);
  EXPECT_NE(error({0, 2}).find("single symbol, got 2"), std::string::npos);
  EXPECT_NE(error({1, 1, 0}).find("last symbol of the table"), std::string::npos);
  EXPECT_NE(error({13, 1}).find("0..12"), std::string::npos);
  EXPECT_NE(error({-1, 1}).find("0..12"), std::string::npos);
  EXPECT_NE(error({1, 2, 3, 4, 4}).find("1 to 4 code lengths, got 5"), std::string::npos);
}

TEST(SymbolCoder, RefusesFixedWidthSymbolsOutsideTheAlphabetOrTooWide) {
  const auto bytes = encode_symbols(Symbols{0, 3, 1, 2}, 4, Coder::kFixed);
  EXPECT_NE(error_of<std::exception>([&] {
              decode_symbols(bytes, 4, 3, Coder::kFixed);
            }).find("below 3, got 3"),
            std::string::npos);
  const std::vector<std::byte> wide{std::byte{9}};
  EXPECT_NE(error_of<std::exception>([&] {
              decode_symbols(wide, 0, 3, Coder::kFixed);
            }).find("at most 8 bits, got 9"),
            std::string::npos);
}

TEST(CheapestCoder, TakesFixedWidthWhereATableDoesNotPay) {
  const std::vector<uint64_t> few{1, 1, 1, 1}, many{100000, 3, 2, 1};
  EXPECT_EQ(pomona::cheapest_coder(few, kCoders).coder, Coder::kFixed);
  EXPECT_EQ(pomona::cheapest_coder(many, kCoders).coder, Coder::kRans);  // below a bit a symbol
  EXPECT_EQ(pomona::cheapest_coder(many, std::span(kCoders).first(2)).coder, Coder::kHuffman);
}

}  // namespace
