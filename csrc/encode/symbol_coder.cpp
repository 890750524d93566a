#include "encode/symbol_coder.h"

#include "pomona/error.h"

#include "base/bit_io.h"
#include "base/text.h"
#include "encode/huffman.h"
#include "encode/rans.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace pomona {
namespace {

constexpr int64_t kMaxAlphabet = 256;
constexpr int kMaxWidth = 8;

[[noreturn]] void refuse(uint64_t offset, const std::string& what) {
  throw CorruptFile("symbol stream", offset, "expected " + what);
}

void check_alphabet(int64_t alphabet) {
  if (alphabet < 1 || alphabet > kMaxAlphabet) {
    throw InvalidArgument(
        text("symbols: expected `alphabet` in 1..", kMaxAlphabet, ", got ", alphabet, "."));
  }
}

void check_coder(Coder coder) {
  if (coder > Coder::kRans) {
    throw InvalidArgument(text("symbols: expected `coder` fixed, Huffman or rANS, got number ",
                               static_cast<int>(coder), "."));
  }
}

// Symbols up to the highest that occurs.
std::span<const uint64_t> used(std::span<const uint64_t> counts) {
  while (!counts.empty() && counts.back() == 0) counts = counts.first(counts.size() - 1);
  return counts;
}

int width_of(std::span<const uint64_t> counts) {
  const size_t highest = std::max<size_t>(used(counts).size(), 1) - 1;
  return static_cast<int>(std::bit_width(highest));
}

// Lengths that may be written as a table: a symbol that never occurs gets the lone code.
std::vector<uint8_t> table_lengths(std::span<const uint64_t> counts) {
  counts = used(counts);
  if (counts.empty()) return {1};
  return huffman_lengths(counts);
}

double total_of(std::span<const uint64_t> counts) {
  double total = 0;
  for (const uint64_t count : counts) total += static_cast<double>(count);
  return total;
}

double huffman_size_bits(std::span<const uint64_t> counts) {
  const auto lengths = table_lengths(counts);
  auto bits = static_cast<double>(lengths_size_bits(lengths));
  if (lone_symbol(lengths)) return bits;
  for (size_t symbol = 0; symbol < lengths.size(); ++symbol) {
    bits += static_cast<double>(counts[symbol]) * lengths[symbol];
  }
  return bits;
}

double rans_size_bits(std::span<const uint64_t> counts) {
  const auto frequencies = rans_frequencies(counts);
  auto bits = static_cast<double>(frequencies_size_bits(frequencies));
  double one = 0;
  for (const uint16_t frequency : frequencies) one += frequency;
  for (size_t symbol = 0; symbol < frequencies.size(); ++symbol) {
    if (counts[symbol] == 0) continue;
    bits += static_cast<double>(counts[symbol]) * std::log2(one / frequencies[symbol]);
  }
  return bits;
}

}  // namespace

std::vector<std::byte> FixedWidth::encode(std::span<const uint8_t> symbols) const {
  BitWriter out;
  out.reserve(symbols.size() * static_cast<size_t>(width) / 8 + 8);
  for (const uint8_t symbol : symbols) out.put(symbol, width);
  return std::move(out).finish();
}

void FixedWidth::decode(std::span<const std::byte> piece, std::span<uint8_t> symbols) const {
  const size_t size = (symbols.size() * static_cast<size_t>(width) + 7) / 8;
  if (piece.size() != size) {
    refuse(std::min(piece.size(), size), text(size, " bytes of symbols, got ", piece.size()));
  }
  BitReader in(piece);
  constexpr size_t kPerRefill = 56 / kMaxWidth;
  for (size_t i = 0; i < symbols.size();) {
    in.refill();
    for (const size_t end = std::min(i + kPerRefill, symbols.size()); i < end; ++i) {
      symbols[i] = static_cast<uint8_t>(in.peek(width));
      in.skip(width);
    }
  }
  if (!in.is_at_end()) refuse(piece.size() - 1, "zero bits to the end of the last byte, got more");
}

SymbolEncoder::SymbolEncoder(Coder coder, std::span<const uint64_t> counts) {
  check_coder(coder);
  BitWriter out;
  if (coder == Coder::kFixed) {
    const int width = width_of(counts);
    out.put(static_cast<uint64_t>(width), 8);
    coder_ = FixedWidth{width};
  } else if (coder == Coder::kHuffman) {
    const auto lengths = table_lengths(counts);
    put_lengths(out, lengths);
    coder_ = HuffmanEncoder(lengths);
  } else {
    const auto frequencies = rans_frequencies(counts);
    put_frequencies(out, frequencies);
    coder_ = RansEncoder(frequencies);
  }
  table_ = std::move(out).finish();
}

std::vector<std::byte> SymbolEncoder::encode(std::span<const uint8_t> symbols) const {
  return std::visit([&](const auto& coder) { return coder.encode(symbols); }, coder_);
}

SymbolDecoder::SymbolDecoder(Coder coder, std::span<const std::byte> bytes, int64_t alphabet)
    : alphabet_(alphabet), coder_(read_table(coder, bytes)) {}

SymbolDecoder::AnyDecoder SymbolDecoder::read_table(Coder coder, std::span<const std::byte> bytes) {
  check_alphabet(alphabet_);
  check_coder(coder);
  BitReader in(bytes);
  std::optional<std::string> problem;
  AnyDecoder decoder;
  if (coder == Coder::kFixed) {
    const auto width = static_cast<int>(in.get(8));
    if (width > kMaxWidth) problem = text("a width of at most ", kMaxWidth, " bits, got ", width);
    decoder = FixedWidth{std::min(width, kMaxWidth)};
  } else if (coder == Coder::kHuffman) {
    const auto lengths = get_lengths(in, alphabet_, problem);
    if (!problem) decoder = HuffmanDecoder(lengths);
  } else {
    const auto frequencies = get_frequencies(in, alphabet_, problem);
    if (!problem) decoder = RansDecoder(frequencies);
  }
  if (in.is_overrun()) problem = "a table of symbols, got its end too early";
  table_size_ = static_cast<size_t>((in.position_bits() + 7) / 8);
  const auto padding = static_cast<int>(8 * table_size_ - in.position_bits());
  if (!problem && in.get(padding) != 0) problem = "zero bits to the end of the table, got others";
  if (problem) refuse(std::min(table_size_, bytes.size()), *problem);
  return decoder;
}

void SymbolDecoder::decode(std::span<const std::byte> piece, std::span<uint8_t> symbols) const {
  std::visit([&](const auto& coder) { coder.decode(piece, symbols); }, coder_);
  // A table of Huffman or rANS has no symbol outside the alphabet.
  if (!std::holds_alternative<FixedWidth>(coder_)) return;
  const auto highest = std::ranges::max_element(symbols);
  if (highest != symbols.end() && *highest >= alphabet_) {
    refuse(0, text("symbols below ", alphabet_, ", got ", int{*highest}));
  }
}

CheapestCoder cheapest_coder(std::span<const uint64_t> counts, std::span<const Coder> coders) {
  CheapestCoder cheapest{.size_bits = std::numeric_limits<double>::infinity()};
  for (const Coder coder : coders) {
    const double size = coded_size_bits(counts, coder);
    if (size < cheapest.size_bits) cheapest = {coder, size};
  }
  return cheapest;
}

std::vector<uint64_t> count_bytes(std::span<const uint8_t> symbols) {
  constexpr size_t kTables = 4;
  std::array<std::array<uint64_t, kMaxAlphabet>, kTables> tables{};
  size_t i = 0;
  for (; i + kTables <= symbols.size(); i += kTables) {
    for (size_t t = 0; t < kTables; ++t) ++tables[t][symbols[i + t]];
  }
  for (; i < symbols.size(); ++i) ++tables[0][symbols[i]];
  std::vector<uint64_t> counts(kMaxAlphabet);
  for (const auto& table : tables) {
    std::ranges::transform(counts, table, counts.begin(), std::plus<>{});
  }
  return counts;
}

std::vector<uint64_t> histogram(std::span<const uint8_t> symbols, int64_t alphabet) {
  check_alphabet(alphabet);
  auto counts = count_bytes(symbols);
  if (used(counts).size() > static_cast<size_t>(alphabet)) {
    const auto wrong = std::ranges::find_if(symbols, [&](uint8_t s) { return s >= alphabet; });
    throw InvalidArgument(text("symbols: expected symbols below ", alphabet, ", got ", int{*wrong},
                               " at ", wrong - symbols.begin(), "."));
  }
  counts.resize(static_cast<size_t>(alphabet));
  return counts;
}

std::vector<std::byte> encode_symbols(std::span<const uint8_t> symbols, int64_t alphabet,
                                      Coder coder) {
  const SymbolEncoder encoder(coder, histogram(symbols, alphabet));
  auto bytes = encoder.table();
  const auto piece = encoder.encode(symbols);
  bytes.insert(bytes.end(), piece.begin(), piece.end());
  return bytes;
}

double coded_size_bits(std::span<const uint64_t> counts, Coder coder) {
  check_coder(coder);
  if (coder == Coder::kHuffman) return huffman_size_bits(counts);
  if (coder == Coder::kRans) return rans_size_bits(counts);
  return 8 + total_of(counts) * width_of(counts);
}

std::vector<uint8_t> decode_symbols(std::span<const std::byte> bytes, int64_t count,
                                    int64_t alphabet, Coder coder) {
  if (count < 0) {
    throw InvalidArgument(text("symbols: expected `count` of at least 0, got ", count, "."));
  }
  const SymbolDecoder decoder(coder, bytes, alphabet);
  std::vector<uint8_t> symbols(static_cast<size_t>(count));
  const size_t table_size = decoder.table_size();
  try {
    decoder.decode(bytes.subspan(table_size), symbols);
  } catch (const CorruptFile& error) {
    throw CorruptFile("symbol stream", table_size + error.offset, error.what());
  }
  return symbols;
}

}  // namespace pomona
