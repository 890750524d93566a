#pragma once
// Positions as gaps with fillers, in bytes that a coder takes (pomona/encode.h, gap_alphabet). It
// works on the words of one chunk of a mask. Source: docs/format.md, "Gaps".

#include "pomona/encode.h"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

struct GapSymbols {
  std::vector<uint8_t> symbols;
  std::vector<std::byte> extra;  // the low bits of large gaps, one after the other
  int64_t fillers = 0;
};

// REQUIRES: 2 <= gap_bits <= 16.
POMONA_API GapSymbols gap_symbols(std::span<const uint64_t> words, int64_t kept, int gap_bits);

// The inverse: the mask of `size` weights. Throws CorruptFile (section "gaps", offset within
// `extra`) for symbols that gap_symbols would not make of a mask of that size.
POMONA_API std::vector<uint64_t> words_from_gaps(std::span<const uint8_t> symbols,
                                                 std::span<const std::byte> extra, int64_t fillers,
                                                 int64_t size, int gap_bits);

// How often each gap occurs, from which the cost of every width follows.
class GapHistogram {
 public:
  void add(std::span<const uint64_t> words);
  void add(const GapHistogram& other);

  // What coding in gaps of that width would meet.
  struct Width {
    std::vector<uint64_t> counts;  // of each symbol
    uint64_t extra_bits = 0;
  };
  Width width(int gap_bits) const;

 private:
  static constexpr uint64_t kCounted = uint64_t{1} << kMaxGapBits;
  std::vector<uint64_t> counts_ = std::vector<uint64_t>(kCounted);
  std::vector<uint64_t> larger_;  // each gap that is not counted
  uint64_t end_ = 0;              // above the largest gap that is counted
};

// The width of the least coded size, and that size in bits.
struct BestGaps {
  int gap_bits = kMinGapBits;
  double size_bits = 0;
};
BestGaps best_gaps(const GapHistogram& gaps, Coder coder);
double gaps_size_bits(const GapHistogram& gaps, int gap_bits, Coder coder);

// Calls visit(gap) for each kept weight: the number of zeros since the one before.
template <class Visit>
void for_each_gap(std::span<const uint64_t> words, Visit visit) {
  uint64_t next = 0;  // the first position not yet covered
  for (size_t w = 0; w < words.size(); ++w) {
    for (uint64_t word = words[w]; word != 0; word &= word - 1) {
      const uint64_t position = 64 * w + static_cast<uint64_t>(std::countr_zero(word));
      visit(position - next);
      next = position + 1;
    }
  }
}

}  // namespace pomona
