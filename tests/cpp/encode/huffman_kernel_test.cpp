#include "encode/huffman_kernel.h"

#include "pomona/encode.h"
#include "pomona/error.h"

#include "base/bit_io.h"
#include "base/varint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <random>
#include <string>
#include <thread>

namespace {

using pomona::CorruptFile;
using pomona::huffman_lengths;
using pomona::HuffmanDecoder;
using pomona::HuffmanEncoder;

using Symbols = std::vector<uint8_t>;

Symbols random_symbols(std::mt19937_64& rng, size_t count, size_t alphabet, double power) {
  std::uniform_real_distribution<double> uniform;
  Symbols symbols(count);
  for (auto& symbol : symbols) {
    symbol =
        static_cast<uint8_t>(std::pow(uniform(rng), 1 + power) * static_cast<double>(alphabet));
  }
  return symbols;
}

std::vector<uint8_t> lengths_of(const Symbols& symbols) {
  std::vector<uint64_t> counts(256);
  for (const uint8_t symbol : symbols) ++counts[symbol];
  return huffman_lengths(counts);
}

// The decoder of docs/format.md: a bit at a time.
Symbols decode_literally(std::span<const std::byte> piece, const std::vector<uint8_t>& lengths,
                         size_t count) {
  const auto codes = pomona::canonical_codes(lengths);
  std::map<std::pair<int, int>, uint8_t> symbol_of;
  for (size_t s = 0; s < lengths.size(); ++s) {
    if (lengths[s] > 0) symbol_of[{lengths[s], codes[s]}] = static_cast<uint8_t>(s);
  }
  const size_t streams = count < 2048 ? 1 : 6;
  size_t at = 0;
  std::vector<size_t> sizes;
  for (size_t s = 0; s + 1 < streams; ++s) sizes.push_back(*pomona::read_varint(piece, at));
  Symbols symbols;
  for (size_t s = 0; s < streams; ++s) {
    const size_t size = s + 1 < streams ? sizes[s] : piece.size() - at;
    pomona::BitReader in(piece.subspan(at, size));
    at += size;
    const size_t each = (count + streams - 1) / streams;
    for (const size_t end = std::min((s + 1) * each, count); symbols.size() < end;) {
      int length = 0, code = 0;
      do {
        code = 2 * code + static_cast<int>(in.get(1));
        ++length;
      } while (!symbol_of.contains({length, code}));
      symbols.push_back(symbol_of[{length, code}]);
    }
    EXPECT_TRUE(in.is_at_end());
  }
  return symbols;
}

Symbols decoded_again(const Symbols& symbols) {
  const auto lengths = lengths_of(symbols);
  const auto piece = HuffmanEncoder(lengths).encode(symbols);
  Symbols decoded(symbols.size(), 0xee);
  HuffmanDecoder(lengths).decode(piece, decoded);
  return decoded;
}

std::string error_of(const HuffmanDecoder& decoder, std::span<const std::byte> piece,
                     size_t count) {
  Symbols decoded(count);
  try {
    decoder.decode(piece, decoded);
  } catch (const CorruptFile& error) {
    return error.what();
  }
  return "no error";
}

TEST(HuffmanKernel, GivesSymbolsOfEveryCountBack) {
  std::mt19937_64 rng(1);
  std::vector<size_t> counts{100, 2047, 2048, 2049, 2053, 32767, 32768, 32769, 65535, 65536, 65537};
  for (size_t count = 1; count < 40; ++count) counts.push_back(count);
  for (const size_t count : counts) {
    for (const size_t alphabet : {2, 3, 16, 31, 129, 256}) {
      for (const double power : {0.0, 1.0, 30.0}) {  // even, skewed, and nearly always one
        const auto symbols = random_symbols(rng, count, alphabet, power);
        ASSERT_EQ(decoded_again(symbols), symbols) << alphabet << ' ' << count << ' ' << power;
      }
    }
  }
}

TEST(HuffmanKernel, GivesSymbolsOfEveryAlphabetBack) {
  std::mt19937_64 rng(4);
  for (size_t alphabet = 1; alphabet <= 256; ++alphabet) {
    for (const size_t count : {500, 3000, 33000}) {  // by each kind of table
      const auto symbols = random_symbols(rng, count, alphabet, 0.5);
      ASSERT_EQ(decoded_again(symbols), symbols) << alphabet << ' ' << count;
    }
  }
}

// One string of codes is long before the others are done.
TEST(HuffmanKernel, GivesSymbolsBackWhoseStreamsAreUneven) {
  std::mt19937_64 rng(5);
  for (const size_t count : {2048, 20000, 200000}) {
    for (const bool is_backwards : {false, true}) {
      auto symbols = random_symbols(rng, count, 200, 0.0);
      std::fill_n(symbols.begin(), count / 2, uint8_t{7});
      if (is_backwards) std::ranges::reverse(symbols);
      ASSERT_EQ(decoded_again(symbols), symbols) << count;
    }
  }
}

TEST(HuffmanKernel, OfNoSymbolsTakesNoBytes) {
  const std::vector<uint8_t> lengths{1, 1};
  EXPECT_TRUE(HuffmanEncoder(lengths).encode({}).empty());
  HuffmanDecoder(lengths).decode({}, {});
  EXPECT_EQ(error_of(HuffmanDecoder(lengths), std::vector<std::byte>(2), 0),
            "symbol stream at byte 0: expected no bytes, got 2");
}

TEST(HuffmanKernel, GivesCodesOfTwelveBitsBack) {
  Symbols symbols;
  for (int s = 0; s < 16; ++s)
    symbols.insert(symbols.end(), size_t{1} << s, static_cast<uint8_t>(s));
  const auto lengths = lengths_of(symbols);
  EXPECT_EQ(*std::ranges::max_element(lengths), 12);
  EXPECT_EQ(decoded_again(symbols), symbols);
  std::ranges::shuffle(symbols, std::mt19937_64(6));
  EXPECT_EQ(decoded_again(symbols), symbols);
}

TEST(HuffmanKernel, IsDecodedByTheDocumentToo) {
  std::mt19937_64 rng(2);
  for (const size_t count : {5, 2047, 2048, 5000, 33001}) {
    const auto symbols = random_symbols(rng, count, 40, 3.0);
    const auto lengths = lengths_of(symbols);
    EXPECT_EQ(decode_literally(HuffmanEncoder(lengths).encode(symbols), lengths, count), symbols);
  }
}

TEST(HuffmanKernel, OfASymbolThatIsAloneTakesNoBytes) {
  const std::vector<uint8_t> lengths{0, 0, 1};
  EXPECT_TRUE(HuffmanEncoder(lengths).encode(Symbols(5000, 2)).empty());
  Symbols decoded(5000);
  HuffmanDecoder(lengths).decode({}, decoded);
  EXPECT_EQ(decoded, Symbols(5000, 2));
  const std::vector<std::byte> byte(1);
  EXPECT_THROW(HuffmanDecoder(lengths).decode(byte, decoded), CorruptFile);
}

// `step`: how many bytes, or bits, lie between those that are tried.
void check_damage(size_t count, size_t alphabet, size_t step) {
  std::mt19937_64 rng(3);
  const auto symbols = random_symbols(rng, count, alphabet, 1.0);
  const auto lengths = lengths_of(symbols);
  auto piece = HuffmanEncoder(lengths).encode(symbols);
  const HuffmanDecoder decoder(lengths);
  Symbols decoded(count);
  for (size_t size = 0; size < piece.size(); size += step) {
    const std::vector<std::byte> cut(piece.data(), piece.data() + size);  // ends where memory does
    ASSERT_THROW(decoder.decode(cut, decoded), CorruptFile) << size;
  }
  for (size_t bit = 0; bit < 8 * piece.size(); bit += step) {
    piece[bit / 8] ^= std::byte{1} << (bit % 8);
    try {
      decoder.decode(piece, decoded);
      for (const uint8_t symbol : decoded) ASSERT_GT(lengths[symbol], 0) << bit;
    } catch (const CorruptFile&) {
    }
    piece[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  piece.push_back(std::byte{0});
  ASSERT_THROW(decoder.decode(piece, decoded), CorruptFile);
}

TEST(HuffmanKernel, RefusesEveryTruncationAndEveryFlippedBitOrStaysInItsAlphabet) {
  for (const size_t count : {1, 2, 3, 50, 200, 2047, 2048, 3000}) check_damage(count, 7, 1);
  check_damage(2500, 250, 1);
}

TEST(HuffmanKernel, RefusesDamageOfLargePieces) {
  for (const size_t alphabet : {4, 40, 256}) check_damage(33000, alphabet, 61);
}

TEST(HuffmanKernel, SaysWhatIsWrongWithAPiece) {
  const std::vector<uint8_t> lengths{1, 1};
  const HuffmanDecoder decoder(lengths);
  const auto piece = HuffmanEncoder(lengths).encode(Symbols(9, 1));
  const auto bytes = [](std::initializer_list<int> values) {
    std::vector<std::byte> made;
    for (const int value : values) made.push_back(static_cast<std::byte>(value));
    return made;
  };
  EXPECT_EQ(piece, bytes({0xff, 0x01}));
  EXPECT_EQ(error_of(decoder, bytes({0xff}), 9),
            "symbol stream at byte 1: expected codes of 9 symbols in 1 bytes, got longer ones");
  EXPECT_EQ(
      error_of(decoder, bytes({0xff, 0x03}), 9),
      "symbol stream at byte 2: expected codes of 9 symbols in 2 bytes, got others after them");
  EXPECT_EQ(
      error_of(decoder, bytes({0xff, 0x01, 0x00}), 9),
      "symbol stream at byte 3: expected codes of 9 symbols in 3 bytes, got others after them");
  EXPECT_EQ(error_of(decoder, bytes({43, 43, 0x80}), 2048),
            "symbol stream at byte 2: expected the size of a stream, got the end of the piece");
  EXPECT_EQ(error_of(decoder, bytes({43, 43, 43, 43, 43, 1}), 2048),
            "symbol stream at byte 5: expected a stream of 43 bytes, got 1");
}

TEST(HuffmanKernel, RefusesASizeWithBytesToSpare) {
  const Symbols symbols(2048, 1);
  const std::vector<uint8_t> lengths{1, 1};
  auto piece = HuffmanEncoder(lengths).encode(symbols);
  ASSERT_EQ(piece[0], std::byte{43});
  EXPECT_EQ(error_of(HuffmanDecoder(lengths), piece, symbols.size()), "no error");
  piece[0] |= std::byte{0x80};
  piece.insert(piece.begin() + 1, std::byte{0});
  EXPECT_EQ(error_of(HuffmanDecoder(lengths), piece, symbols.size()),
            "symbol stream at byte 0: expected the size 43 in as few bytes as it takes, got 2");
}

TEST(HuffmanKernel, DecodesForSeveralThreadsAtOnce) {
  std::mt19937_64 rng(7);
  const auto symbols = random_symbols(rng, 100000, 16, 1.0);
  const auto lengths = lengths_of(symbols);
  const auto piece = HuffmanEncoder(lengths).encode(symbols);
  const HuffmanDecoder decoder(lengths);
  std::vector<Symbols> decoded(4, Symbols(symbols.size()));
  std::vector<std::thread> threads;
  for (auto& into : decoded) threads.emplace_back([&] { decoder.decode(piece, into); });
  for (auto& thread : threads) thread.join();
  for (const auto& each : decoded) EXPECT_EQ(each, symbols);
}

}  // namespace
