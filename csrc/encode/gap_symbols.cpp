#include "encode/gap_symbols.h"

#include "pomona/error.h"

#include "base/bit_io.h"
#include "base/text.h"

#include <algorithm>
#include <functional>

namespace pomona {
namespace {

constexpr uint32_t kFirstClass = 128;  // gaps below are their own symbols
constexpr int kFirstClassBit = 7;      // log2 of it
constexpr int kBitsInSymbol = 3;       // of a gap above, after its highest

struct GapSymbol {
  uint32_t symbol;
  uint32_t extra;
  int extra_bits;
};

// REQUIRES: gap < 2^16.
GapSymbol symbol_of(uint32_t gap) {
  if (gap < kFirstClass) return {gap, 0, 0};
  const int highest = static_cast<int>(std::bit_width(gap)) - 1;
  const int extra_bits = highest - kBitsInSymbol;
  const uint32_t bits = (gap >> extra_bits) & ((1u << kBitsInSymbol) - 1);
  const auto group = static_cast<uint32_t>(highest - kFirstClassBit) << kBitsInSymbol;
  return {kFirstClass + group + bits, gap & ((1u << extra_bits) - 1), extra_bits};
}

int extra_bits_of(uint32_t symbol) {
  if (symbol < kFirstClass) return 0;
  return static_cast<int>((symbol - kFirstClass) >> kBitsInSymbol) + kFirstClassBit - kBitsInSymbol;
}

// The gap without its extra bits.
uint32_t base_of(uint32_t symbol) {
  if (symbol < kFirstClass) return symbol;
  const uint32_t bits = (symbol - kFirstClass) & ((1u << kBitsInSymbol) - 1);
  return ((1u << kBitsInSymbol) + bits) << extra_bits_of(symbol);
}

[[noreturn]] void refuse(uint64_t offset, const std::string& what) {
  throw CorruptFile("gaps", offset, "expected " + what);
}

void check_gap_bits(int gap_bits) {
  if (gap_bits < kMinGapBits || gap_bits > kMaxGapBits) {
    throw InvalidArgument(text("relative index: expected `gap_bits` in ", kMinGapBits, "..",
                               kMaxGapBits, ", got ", gap_bits, "."));
  }
}

}  // namespace

int64_t gap_alphabet(int gap_bits) {
  check_gap_bits(gap_bits);
  return 1 + (gap_bits < kFirstClassBit + 1 ? int64_t{1} << gap_bits
                                            : kFirstClass + 8 * (gap_bits - kFirstClassBit));
}

GapSymbols gap_symbols(std::span<const uint64_t> words, int64_t kept, int gap_bits) {
  const auto filler = static_cast<uint8_t>(gap_alphabet(gap_bits) - 1);
  const uint64_t below = (uint64_t{1} << gap_bits) - 1;
  GapSymbols result;
  result.symbols.reserve(static_cast<size_t>(kept) + static_cast<size_t>(kept) / 8);
  BitWriter extra;
  for_each_gap(words, [&](uint64_t gap) {
    for (uint64_t left = gap >> gap_bits; left > 0; --left) {
      result.symbols.push_back(filler);
      ++result.fillers;
    }
    const GapSymbol symbol = symbol_of(static_cast<uint32_t>(gap & below));
    result.symbols.push_back(static_cast<uint8_t>(symbol.symbol));
    extra.put(symbol.extra, symbol.extra_bits);
  });
  result.extra = std::move(extra).finish();
  return result;
}

std::vector<uint64_t> words_from_gaps(std::span<const uint8_t> symbols,
                                      std::span<const std::byte> extra, int64_t fillers,
                                      int64_t size, int gap_bits) {
  std::vector<uint64_t> words((static_cast<size_t>(size) + 63) / 64);
  const auto filler = static_cast<uint8_t>(gap_alphabet(gap_bits) - 1);
  const auto end = static_cast<uint64_t>(size);
  BitReader low_bits(extra);
  uint64_t next = 0;
  int64_t fillers_seen = 0;
  for (const uint8_t symbol : symbols) {
    if (symbol == filler) {
      next += uint64_t{1} << gap_bits;
      ++fillers_seen;
      continue;
    }
    next += base_of(symbol);
    if (symbol >= kFirstClass) next += low_bits.get(extra_bits_of(symbol));
    if (next >= end) refuse(0, text("positions below ", size, ", got ", next));
    words[next / 64] |= uint64_t{1} << (next % 64);
    ++next;
  }
  if (!symbols.empty() && symbols.back() == filler) refuse(0, "a weight at the end, got a filler");
  if (fillers_seen != fillers) refuse(0, text(fillers, " fillers, got ", fillers_seen));
  if (!low_bits.is_at_end()) refuse(extra.size(), "extra bits for the large gaps and no more");
  return words;
}

void GapHistogram::add(std::span<const uint64_t> words) {
  for_each_gap(words, [&](uint64_t gap) {
    if (gap >= kCounted) {
      larger_.push_back(gap);
    } else {
      ++counts_[gap];
      end_ = std::max(end_, gap + 1);
    }
  });
}

void GapHistogram::add(const GapHistogram& other) {
  std::ranges::transform(counts_, other.counts_, counts_.begin(), std::plus<>{});
  larger_.insert(larger_.end(), other.larger_.begin(), other.larger_.end());
  end_ = std::max(end_, other.end_);
}

GapHistogram::Width GapHistogram::width(int gap_bits) const {
  Width width{.counts = std::vector<uint64_t>(static_cast<size_t>(gap_alphabet(gap_bits)))};
  const auto count = [&](uint64_t gap, uint64_t times) {
    const auto symbol = symbol_of(static_cast<uint32_t>(gap & ((uint64_t{1} << gap_bits) - 1)));
    width.counts[symbol.symbol] += times;
    width.counts.back() += times * (gap >> gap_bits);
    width.extra_bits += times * static_cast<uint64_t>(symbol.extra_bits);
  };
  for (uint64_t gap = 0; gap < end_; ++gap) {
    if (counts_[gap] > 0) count(gap, counts_[gap]);
  }
  for (const uint64_t gap : larger_) count(gap, 1);
  return width;
}

double gaps_size_bits(const GapHistogram& gaps, int gap_bits, Coder coder) {
  const auto width = gaps.width(gap_bits);
  return coded_size_bits(width.counts, coder) + static_cast<double>(width.extra_bits);
}

BestGaps best_gaps(const GapHistogram& gaps, Coder coder) {
  BestGaps best;
  for (int bits = kMinGapBits; bits <= kMaxGapBits; ++bits) {
    const double size = gaps_size_bits(gaps, bits, coder);
    if (bits == kMinGapBits || size < best.size_bits) best = {bits, size};
  }
  return best;
}

}  // namespace pomona
