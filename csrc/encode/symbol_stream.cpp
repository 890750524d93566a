// Steps 4 and 5 of pomona/encode.h, and back. Source: docs/format.md, "Symbol streams".
#include "pomona/encode.h"
#include "pomona/error.h"

#include "base/bit_io.h"
#include "base/text.h"
#include "encode/huffman.h"

#include <algorithm>

namespace pomona {
namespace {

constexpr int kWidthBits = 4;
constexpr int64_t kMaxAlphabet = (int64_t{1} << kMaxGapBits) + 1;
constexpr int kMaxWidth = 9;  // bits that hold a symbol of the largest alphabet

void check_alphabet(int64_t alphabet) {
  if (alphabet < 1 || alphabet > kMaxAlphabet) {
    throw InvalidArgument(
        text("symbols: expected `alphabet` in 1..", kMaxAlphabet, ", got ", alphabet, "."));
  }
}

template <class Symbol>
std::vector<uint64_t> count_symbols(std::span<const Symbol> symbols, int64_t alphabet) {
  check_alphabet(alphabet);
  std::vector<uint64_t> counts(static_cast<size_t>(alphabet));
  for (size_t i = 0; i < symbols.size(); ++i) {
    if (symbols[i] >= alphabet) {
      throw InvalidArgument(text("symbols: expected symbols below ", alphabet, ", got ",
                                 int{symbols[i]}, " at ", i, "."));
    }
    ++counts[symbols[i]];
  }
  return counts;
}

// How a stream is coded, decided from the counts alone.
struct Plan {
  bool is_huffman = false;
  int width = 0;                   // in fixed width
  std::vector<uint8_t> lengths{};  // in Huffman: of symbols 0 to the highest that occurs
  uint64_t size_bits = 0;
};

Plan make_plan(std::span<const uint64_t> counts) {
  uint64_t total = 0;
  size_t used = 0;  // one more than the highest symbol that occurs
  for (size_t symbol = 0; symbol < counts.size(); ++symbol) {
    total += counts[symbol];
    if (counts[symbol] > 0) used = symbol + 1;
  }
  Plan plan{.width = used == 0 ? 0 : static_cast<int>(std::bit_width(used - 1))};
  plan.size_bits = 1 + kWidthBits + total * static_cast<uint64_t>(plan.width);
  if (used == 0) return plan;
  auto lengths = huffman_lengths(counts.first(used));
  uint64_t huffman_bits = 1 + lengths_size_bits(lengths);
  if (!lone_symbol(lengths)) {
    for (size_t symbol = 0; symbol < used; ++symbol)
      huffman_bits += counts[symbol] * lengths[symbol];
  }
  if (huffman_bits < plan.size_bits) {
    plan = {.is_huffman = true, .lengths = std::move(lengths), .size_bits = huffman_bits};
  }
  return plan;
}

template <class Symbol>
std::vector<std::byte> encode(std::span<const Symbol> symbols, int64_t alphabet) {
  const auto plan = make_plan(count_symbols(symbols, alphabet));
  BitWriter out;
  out.reserve(static_cast<size_t>(plan.size_bits / 8 + 8));
  out.put(plan.is_huffman, 1);
  if (!plan.is_huffman) {
    out.put(static_cast<uint64_t>(plan.width), kWidthBits);
    for (const Symbol symbol : symbols) out.put(symbol, plan.width);
    return std::move(out).finish();
  }
  put_lengths(out, plan.lengths);
  if (!lone_symbol(plan.lengths)) {
    const auto codes = reversed_codes(plan.lengths);
    for (const Symbol symbol : symbols) out.put(codes[symbol], plan.lengths[symbol]);
  }
  return std::move(out).finish();
}

[[noreturn]] void refuse(const BitReader& in, const std::string& what) {
  throw CorruptFile("symbol stream", in.position_bits() / 8, text("expected ", what));
}

// The bits that `count` codes of at least one bit need are there; checked before room is made for
// the symbols.
void check_count(const BitReader& in, std::span<const std::byte> bytes, int64_t count) {
  if (static_cast<uint64_t>(count) > 8 * bytes.size()) {
    refuse(in, text(count, " symbols, got ", bytes.size(), " bytes"));
  }
}

template <class Symbol>
std::vector<Symbol> decode_fixed(BitReader& in, std::span<const std::byte> bytes, int64_t count,
                                 int64_t alphabet) {
  const auto width = static_cast<int>(in.get(kWidthBits));
  if (width > kMaxWidth) refuse(in, text("a width of at most ", kMaxWidth, " bits, got ", width));
  if (width > 0) check_count(in, bytes, count);
  std::vector<Symbol> symbols(static_cast<size_t>(count));
  if (width == 0) return symbols;
  for (auto& symbol : symbols) {
    const uint64_t value = in.get(width);
    if (value >= static_cast<uint64_t>(alphabet)) {
      refuse(in, text("symbols below ", alphabet, ", got ", value));
    }
    symbol = static_cast<Symbol>(value);
  }
  return symbols;
}

template <class Symbol>
std::vector<Symbol> decode_huffman(BitReader& in, std::span<const std::byte> bytes, int64_t count,
                                   int64_t alphabet) {
  std::optional<std::string> problem;
  const auto lengths = get_lengths(in, alphabet, problem);
  if (problem) refuse(in, *problem);
  if (const auto symbol = lone_symbol(lengths)) {
    return std::vector<Symbol>(static_cast<size_t>(count), static_cast<Symbol>(*symbol));
  }
  check_count(in, bytes, count);
  const auto table = decode_table(lengths);
  std::vector<Symbol> symbols(static_cast<size_t>(count));
  constexpr size_t kPerRefill = 56 / kMaxCodeLength;
  for (size_t i = 0; i < symbols.size();) {
    in.refill();
    for (const size_t end = std::min(i + kPerRefill, symbols.size()); i < end; ++i) {
      const DecodeEntry entry = table[in.peek(kMaxCodeLength)];
      symbols[i] = static_cast<Symbol>(entry.symbol);
      in.skip(entry.length);
    }
  }
  return symbols;
}

template <class Symbol>
std::vector<Symbol> decode(std::span<const std::byte> bytes, int64_t count, int64_t alphabet) {
  check_alphabet(alphabet);
  if (count < 0)
    throw InvalidArgument(text("symbols: expected `count` of at least 0, got ", count));
  BitReader in(bytes);
  const bool is_huffman = in.get(1) != 0;
  auto symbols = is_huffman ? decode_huffman<Symbol>(in, bytes, count, alphabet)
                            : decode_fixed<Symbol>(in, bytes, count, alphabet);
  if (in.is_overrun()) {
    throw CorruptFile("symbol stream", bytes.size(),
                      text("expected ", count, " symbols, got fewer"));
  }
  if (!in.is_at_end()) refuse(in, "zero bits to the end of the last byte, got more");
  return symbols;
}

}  // namespace

std::vector<uint64_t> histogram(std::span<const uint8_t> symbols, int64_t alphabet) {
  return count_symbols(symbols, alphabet);
}

std::vector<uint64_t> histogram(std::span<const uint16_t> symbols, int64_t alphabet) {
  return count_symbols(symbols, alphabet);
}

std::vector<std::byte> encode_symbols(std::span<const uint8_t> symbols, int64_t alphabet) {
  return encode(symbols, alphabet);
}

std::vector<std::byte> encode_symbols(std::span<const uint16_t> symbols, int64_t alphabet) {
  return encode(symbols, alphabet);
}

uint64_t coded_size_bits(std::span<const uint64_t> counts) {
  return make_plan(counts).size_bits;
}

std::vector<uint8_t> decode_codes(std::span<const std::byte> bytes, int64_t count,
                                  int64_t alphabet) {
  if (alphabet > 256) {
    throw InvalidArgument(text("decode_codes: expected `alphabet` in 1..256, got ", alphabet, "."));
  }
  return decode<uint8_t>(bytes, count, alphabet);
}

std::vector<uint16_t> decode_gaps(std::span<const std::byte> bytes, int64_t count,
                                  int64_t alphabet) {
  return decode<uint16_t>(bytes, count, alphabet);
}

}  // namespace pomona
