#include "encode/rans.h"

#include "pomona/error.h"

#include "encode/rans_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>

namespace {

using pomona::BitReader;
using pomona::BitWriter;
using pomona::CorruptFile;
using pomona::Isa;
using pomona::kRansOne;
using pomona::rans_frequencies;
using pomona::RansDecoder;
using pomona::RansEncoder;

using Symbols = std::vector<uint8_t>;

constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512};

std::vector<uint64_t> counts_of(const Symbols& symbols) {
  std::vector<uint64_t> counts(256);
  for (const uint8_t symbol : symbols) ++counts[symbol];
  return counts;
}

// `power` 0: uniform; large: nearly all symbols are 0.
Symbols random_symbols(std::mt19937_64& rng, size_t count, size_t alphabet, double power) {
  std::uniform_real_distribution<double> uniform;
  Symbols symbols(count);
  for (auto& symbol : symbols) {
    symbol =
        static_cast<uint8_t>(std::pow(uniform(rng), 1 + power) * static_cast<double>(alphabet));
  }
  return symbols;
}

// The decoder of docs/format.md, word for word.
Symbols decode_literally(const std::vector<std::byte>& piece, std::span<const uint16_t> frequencies,
                         size_t count) {
  const size_t lanes = pomona::rans_lanes(count);
  std::vector<uint32_t> states(lanes);
  std::memcpy(states.data(), piece.data(), 4 * lanes);
  size_t at = 4 * lanes;
  Symbols symbols;
  for (size_t i = 0; i < count; ++i) {
    uint32_t& x = states[i % lanes];
    const uint32_t slot = x % 4096;
    uint32_t before = 0;
    size_t symbol = 0;
    while (before + frequencies[symbol] <= slot) before += frequencies[symbol++];
    x = frequencies[symbol] * (x / 4096) + slot - before;
    if (x < 65536) {
      uint16_t word = 0;
      std::memcpy(&word, piece.data() + at, 2);
      at += 2;
      x = x * 65536 + word;
    }
    symbols.push_back(static_cast<uint8_t>(symbol));
  }
  EXPECT_EQ(at, piece.size());
  return symbols;
}

TEST(RansFrequencies, AddUpToOneAndLeaveNoSymbolOut) {
  std::mt19937_64 rng(1);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<uint64_t> counts(1 + rng() % 256);
    const uint64_t most = uint64_t{1} << (rng() % 40);
    for (auto& count : counts) count = rng() % 3 == 0 ? 0 : rng() % (1 + most);
    const auto frequencies = rans_frequencies(counts);
    uint32_t sum = 0;
    for (size_t s = 0; s < frequencies.size(); ++s) {
      sum += frequencies[s];
      if (s > 0 || frequencies.size() > 1) {
        EXPECT_EQ(frequencies[s] > 0, counts[s] > 0);
      }
    }
    EXPECT_EQ(sum, kRansOne);
    EXPECT_GT(frequencies.back(), 0);
  }
}

// bits[f]: of a symbol with the probability f / 4096.
std::array<double, kRansOne + 1> bits_of_probabilities() {
  std::array<double, kRansOne + 1> bits{};
  for (size_t f = 1; f < bits.size(); ++f) bits[f] = 12 - std::log2(static_cast<double>(f));
  return bits;
}

double coded_bits(std::span<const uint64_t> counts, std::span<const uint16_t> frequencies) {
  const auto bits = bits_of_probabilities();
  double sum = 0;
  for (size_t s = 0; s < frequencies.size(); ++s) {
    if (counts[s] > 0) sum += static_cast<double>(counts[s]) * bits[frequencies[s]];
  }
  return sum;
}

TEST(RansFrequencies, AreTheBestOfAllForThreeSymbols) {
  const auto bits = bits_of_probabilities();
  const std::vector<uint64_t> cases[] = {{1, 1, 1},       {1, 2, 3},          {5, 7, 1000},
                                         {1, 1, 1 << 30}, {1, 100000, 99999}, {3, 40960, 40961},
                                         {2, 3, 8191}};
  for (const auto& counts : cases) {
    double c[3];
    std::ranges::transform(counts, c, [](uint64_t count) { return static_cast<double>(count); });
    double best = 1e300;
    for (size_t f = 1; f < kRansOne; ++f) {
      for (size_t g = 1; f + g < kRansOne; ++g) {
        best = std::min(best, c[0] * bits[f] + c[1] * bits[g] + c[2] * bits[kRansOne - f - g]);
      }
    }
    EXPECT_LE(coded_bits(counts, rans_frequencies(counts)), best * (1 + 1e-14));
  }
}

// The size is convex in each probability, so this makes them the best of all.
TEST(RansFrequencies, AreNoBetterWithAUnitMovedBetweenAnyTwoSymbols) {
  const auto bits = bits_of_probabilities();
  std::mt19937_64 rng(2);
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<uint64_t> counts(1 + rng() % 256);
    for (auto& count : counts) count = rng() >> (24 + rng() % 40);  // from all below 2^40 to few
    counts.back() += 1;
    const auto f = rans_frequencies(counts);
    double most_gained = 0, least_lost = 1e300;
    for (size_t s = 0; s < f.size(); ++s) {
      const auto count = static_cast<double>(counts[s]);
      if (count > 0 && f[s] < kRansOne) {
        most_gained = std::max(most_gained, count * (bits[f[s]] - bits[f[s] + 1u]));
      }
      if (f[s] > 1) least_lost = std::min(least_lost, count * (bits[f[s] - 1u] - bits[f[s]]));
    }
    EXPECT_LE(most_gained, least_lost * (1 + 1e-9));
  }
}

TEST(RansFrequencies, OfNothingOrOfOneSymbolAreAllItsOwn) {
  const std::vector<uint16_t> first = {4096}, third = {0, 0, 4096};
  EXPECT_EQ(rans_frequencies({}), first);
  EXPECT_EQ(rans_frequencies(std::vector<uint64_t>(9)), first);
  EXPECT_EQ(rans_frequencies(std::vector<uint64_t>{0, 0, 7, 0}), third);
}

TEST(RansFrequencies, OfSixteenSymbolsTakeAboutTwentyBytes) {
  std::mt19937_64 rng(7);
  for (const double power : {0.0, 1.5, 6.0}) {
    const auto counts = counts_of(random_symbols(rng, 100000, 16, power));
    EXPECT_LE(pomona::frequencies_size_bits(rans_frequencies(counts)), 8 * 22u) << power;
  }
}

TEST(RansFrequencies, ComeBackFromTheirTable) {
  std::mt19937_64 rng(3);
  for (const size_t alphabet : {1, 2, 3, 16, 100, 256}) {
    for (const double power : {0.0, 2.0, 20.0}) {
      const auto frequencies =
          rans_frequencies(counts_of(random_symbols(rng, 10000, alphabet, power)));
      BitWriter out;
      put_frequencies(out, frequencies);
      const auto bytes = std::move(out).finish();
      EXPECT_EQ(bytes.size(), (pomona::frequencies_size_bits(frequencies) + 7) / 8);
      BitReader in(bytes);
      std::optional<std::string> problem;
      EXPECT_EQ(get_frequencies(in, 256, problem), frequencies);
      EXPECT_FALSE(problem);
    }
  }
}

TEST(RansFrequencies, OfABrokenTableAreRefused) {
  const auto problem_of = [](std::initializer_list<int> widths, int64_t alphabet) {
    BitWriter out;
    out.put_gamma(widths.size() + 1);
    int before = 8;
    for (const int width : widths) {
      const int d = width - before;
      out.put_gamma(static_cast<uint64_t>(d >= 0 ? 2 * d + 1 : -2 * d));
      if (width > 1) out.put((1u << (width - 1)) - 1, width - 1);
      before = width;
    }
    const auto bytes = std::move(out).finish();
    BitReader in(bytes);
    std::optional<std::string> problem;
    get_frequencies(in, alphabet, problem);
    return problem.value_or("");
  };
  EXPECT_EQ(problem_of({11}, 2), "");
  EXPECT_NE(problem_of({11}, 1).find("1 to 1 probabilities, got 2"), std::string::npos);
  EXPECT_NE(problem_of({13}, 4).find("0..12 bits"), std::string::npos);
  EXPECT_NE(problem_of({-1}, 4).find("0..12 bits"), std::string::npos);
  EXPECT_NE(problem_of({11, 12}, 4).find("leave some for the last"), std::string::npos);
}

// What a decoder makes of a piece: symbols, or the offset that it throws. Both in memory of their
// own, so that a sanitizer sees each byte too far.
struct Outcome {
  Symbols symbols;
  std::optional<uint64_t> refused_at;
  bool operator==(const Outcome&) const = default;
};
Outcome decode(const RansDecoder& decoder, std::span<const std::byte> piece, size_t count) {
  const std::vector<std::byte> bytes(piece.begin(), piece.end());
  Outcome outcome{Symbols(count, 0xee), {}};
  try {
    decoder.decode(bytes, outcome.symbols);
  } catch (const CorruptFile& error) {
    EXPECT_LE(error.offset, piece.size());
    outcome = {{}, error.offset};
  }
  return outcome;
}

// One for each instruction set of this machine, the portable one first.
std::vector<RansDecoder> decoders(std::span<const uint16_t> frequencies) {
  std::vector<RansDecoder> all;
  for (const Isa isa : kIsas) {
    if (pomona::has_isa(isa)) all.emplace_back(frequencies, isa);
  }
  return all;
}

// On every instruction set and by the document.
void expect_back(const Symbols& symbols) {
  const auto frequencies = rans_frequencies(counts_of(symbols));
  const auto piece = RansEncoder(frequencies).encode(symbols);
  if (!piece.empty()) {
    ASSERT_EQ(decode_literally(piece, frequencies, symbols.size()), symbols);
  }
  for (const auto& decoder : decoders(frequencies)) {
    const auto outcome = decode(decoder, piece, symbols.size());
    ASSERT_FALSE(outcome.refused_at) << *outcome.refused_at;
    ASSERT_EQ(outcome.symbols, symbols);
  }
}

constexpr double kUniform = 0, kSkewed = 1, kNearlyOne = 30;  // powers for random_symbols

TEST(Rans, GivesSymbolsBackForEveryAlphabet) {
  std::mt19937_64 rng(4);
  for (size_t alphabet = 1; alphabet <= 256; ++alphabet) {
    for (const double power : {kUniform, kNearlyOne}) {
      expect_back(random_symbols(rng, 700, alphabet, power));
      expect_back(random_symbols(rng, 33000, alphabet, power));
    }
  }
}

TEST(Rans, GivesSymbolsBackForSizesAroundEveryStepAndEveryNumberOfLanes) {
  std::mt19937_64 rng(5);
  for (const size_t alphabet : {2, 16, 32, 64, 129}) {
    for (size_t count = 0; count < 20; ++count) {
      expect_back(random_symbols(rng, count, alphabet, kSkewed));
    }
    for (const int middle : {1024, 32768, 32768 + 64, 32768 + 128}) {
      for (const int near : {-65, -64, -63, -9, -8, -7, -1, 0, 1, 7, 8, 9, 63}) {
        expect_back(random_symbols(rng, static_cast<size_t>(middle + near), alphabet, kSkewed));
      }
    }
  }
}

// One in a thousand is another: few words, so most steps are near their end.
TEST(Rans, GivesSymbolsBackThatTakeNextToNoBits) {
  std::mt19937_64 rng(6);
  for (const size_t count : {900, 5000, 40000, 300000}) {
    for (const uint8_t rare : std::array<uint8_t, 4>{1, 20, 40, 200}) {
      Symbols symbols(count);
      for (auto& symbol : symbols) symbol = rng() % 1000 == 0 ? rare : 0;
      expect_back(symbols);
    }
  }
}

TEST(Rans, OfARareSymbolTakesFarBelowABitASymbol) {
  Symbols symbols(100000);
  for (size_t i = 0; i < symbols.size(); i += 1000) symbols[i] = 1;
  const auto frequencies = rans_frequencies(counts_of(symbols));
  EXPECT_LT(RansEncoder(frequencies).encode(symbols).size(), 500u);
}

TEST(Rans, TakesNoBytesForASingleSymbolOrForNone) {
  const std::vector<uint16_t> lone = {0, 0, 0, 4096}, two = {4095, 1};
  EXPECT_TRUE(RansEncoder(lone).encode(Symbols(5000, 3)).empty());
  EXPECT_EQ(decode(RansDecoder(lone), {}, 5000).symbols, Symbols(5000, 3));
  EXPECT_TRUE(RansEncoder(two).encode({}).empty());
  EXPECT_EQ(decode(RansDecoder(two), {}, 0).symbols, Symbols());
}

TEST(Rans, PaysAFewBytesForTheStatesOfASmallPiece) {
  std::mt19937_64 rng(8);
  const auto symbols = random_symbols(rng, 200, 16, kUniform);
  const std::vector<uint16_t> uniform(16, 256);
  EXPECT_LE(RansEncoder(uniform).encode(symbols).size(), 100u + 4u);
}

std::string refusal_of(std::span<const uint16_t> frequencies, std::span<const std::byte> piece,
                       size_t count) {
  Symbols symbols(count);
  try {
    RansDecoder(frequencies).decode(piece, symbols);
  } catch (const CorruptFile& error) {
    return error.what();
  }
  return "";
}

TEST(Rans, SaysWhatIsWrongWithAPiece) {
  const std::vector<uint16_t> lone = {4096}, two = {4000, 96};
  const Symbols symbols(10, 1);
  const auto piece = RansEncoder(two).encode(symbols);
  const auto with = [&](size_t at, std::vector<std::byte> more) {
    auto changed = piece;
    if (at < changed.size()) changed[at] ^= std::byte{1};
    changed.insert(changed.end(), more.begin(), more.end());
    return refusal_of(two, changed, symbols.size());
  };
  const auto expect_in = [](const std::string& what, const char* part) {
    EXPECT_NE(what.find(part), std::string::npos) << what;
  };
  expect_in(refusal_of(lone, piece, 10), "symbol stream at byte 0: expected no bytes, got ");
  expect_in(refusal_of(two, piece, 0), "expected no bytes, got ");
  expect_in(refusal_of(two, {}, 10), "at byte 0: expected 1 states and words, got 0 bytes");
  expect_in(with(piece.size(), {std::byte{0}}), "states and words, got ");
  expect_in(refusal_of(two, std::vector<std::byte>(8), 10), "states of at least 2^16");
  expect_in(with(piece.size(), {std::byte{0}, std::byte{0}}), "as many words as the symbols take");
  expect_in(with(piece.size() - 2, {}), "states that end where they began");
}

// Every truncation and every bit, or every `step`th of a large piece.
void expect_refused_or_in_alphabet(const Symbols& symbols, uint8_t alphabet, size_t step) {
  const auto frequencies = rans_frequencies(counts_of(symbols));
  auto piece = RansEncoder(frequencies).encode(symbols);
  const auto all = decoders(frequencies);
  for (size_t size = 0; size < piece.size(); size += step) {
    const auto outcome = decode(all[0], std::span(piece).first(size), symbols.size());
    ASSERT_TRUE(outcome.refused_at) << size;
    for (const auto& decoder : all) {
      ASSERT_EQ(decode(decoder, std::span(piece).first(size), symbols.size()), outcome) << size;
    }
  }
  for (size_t bit = 0; bit < 8 * piece.size(); bit += step) {
    piece[bit / 8] ^= std::byte{1} << (bit % 8);
    const auto outcome = decode(all[0], piece, symbols.size());
    for (const uint8_t symbol : outcome.symbols) ASSERT_LT(symbol, alphabet);
    for (const auto& decoder : all) {
      ASSERT_EQ(decode(decoder, piece, symbols.size()), outcome) << bit;
    }
    piece[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST(Rans, RefusesEveryTruncationAndEveryFlippedBitOrStaysInItsAlphabet) {
  std::mt19937_64 rng(9);
  expect_refused_or_in_alphabet(random_symbols(rng, 200, 5, 2.0), 5, 1);
  expect_refused_or_in_alphabet(random_symbols(rng, 1100, 100, kUniform), 100, 1);
  expect_refused_or_in_alphabet(random_symbols(rng, 32768, 2, 900), 2, 1);
}

TEST(Rans, RefusesDamageToLargePiecesOrStaysInItsAlphabet) {
  std::mt19937_64 rng(10);
  for (const uint8_t alphabet : std::array<uint8_t, 4>{5, 20, 50, 200}) {
    expect_refused_or_in_alphabet(random_symbols(rng, 33000, alphabet, kSkewed), alphabet, 211);
  }
}

TEST(Rans, RefusesAnyNumberOfWordsTooMany) {
  std::mt19937_64 rng(11);
  for (const size_t count : {10, 1101, 33001}) {
    for (const size_t alphabet : {9, 90}) {
      const auto symbols = random_symbols(rng, count, alphabet, kSkewed);
      const auto frequencies = rans_frequencies(counts_of(symbols));
      const auto piece = RansEncoder(frequencies).encode(symbols);
      for (const size_t more : {2, 16, 126, 128, 130, 256, 258, 5000}) {
        auto longer = piece;
        longer.resize(piece.size() + more);
        for (const auto& decoder : decoders(frequencies)) {
          EXPECT_EQ(decode(decoder, longer, count).refused_at, longer.size());
        }
      }
    }
  }
}

// States of 2^16 and words of 0 under a probability of 1 / 4096: in the first three steps each
// state takes a word, as many as a step can.
TEST(Rans, ReadsNoByteTooFarWhereAllStatesTakeWords) {
  for (const size_t alphabet : {16, 32, 64, 256}) {
    std::vector<uint16_t> frequencies(alphabet, 1);
    frequencies.back() = static_cast<uint16_t>(kRansOne - alphabet + 1);
    for (const size_t count : {5000, 40000}) {
      const size_t lanes = pomona::rans_lanes(count);
      std::vector<std::byte> piece(4 * lanes);
      for (size_t lane = 0; lane < lanes; ++lane) piece[4 * lane + 2] = std::byte{1};
      for (size_t words = 0; words <= 4 * lanes; ++words, piece.resize(piece.size() + 2)) {
        for (const auto& decoder : decoders(frequencies)) {
          ASSERT_EQ(decode(decoder, piece, count).refused_at, piece.size()) << words;
        }
      }
    }
  }
}

}  // namespace
