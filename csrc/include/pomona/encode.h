#pragma once
// The steps from a `Weight` to the bytes of its sections (thesis §4.5 and §4.4; docs/format.md),
// one function each: gaps with fillers, a histogram, Huffman code lengths, canonical codes, a
// stream of bits. No torch.

#include "pomona/export.h"
#include "pomona/mask.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// How a stream of symbols is coded. The numbers are part of the file format.
enum class Coder : uint8_t {
  kFixed = 0,    // each symbol in the same number of bits
  kHuffman = 1,  // the thesis's
  kRans = 2,     // range asymmetric numeral systems: fractions of a bit
  kContext = 3,  // adaptive, binary, arithmetic, in the context of the matrix around a weight
};

inline constexpr int kMinGapBits = 2;
inline constexpr int kMaxGapBits = 16;
// The longest Huffman code of a file: a decoder needs one table of 2^12 entries, and the cost
// beside an unlimited code is far below one percent.
inline constexpr int kMaxCodeLength = 12;

// The positions of the kept weights of a flattened tensor. `gaps` holds symbols: below 2^gap_bits
// that many zeros and then one kept weight, 2^gap_bits itself a filler, 2^gap_bits zeros and no
// weight. Zeros after the last kept weight have no symbol.
//
//   gap_bits = 2    0 0 7 0 0 0 0 0 0 0 0 0 5 0    gaps  2  filler  filler  1
//
// Source: thesis §4.5 (Deep Compression, Figure 2): the difference of positions is stored as
// difference - 1 zeros; a filler when the difference exceeds 2^gap_bits.
struct POMONA_API RelativeIndex {
  int gap_bits = kMinGapBits;
  std::vector<uint32_t> gaps{};
  int64_t fillers = 0;  // how many of the gaps are fillers
  uint32_t filler() const { return uint32_t{1} << gap_bits; }
  bool operator==(const RelativeIndex&) const = default;
};

// Throws InvalidArgument for gap_bits outside 2..16. O(mask.size() / 64 + kept + fillers).
POMONA_API RelativeIndex relative_index(const Mask& mask, int gap_bits);
// The inverse. Throws InvalidArgument for a symbol above the filler, a position outside `size`, a
// last symbol that is a filler, or another number of fillers than it says.
POMONA_API Mask to_mask(const RelativeIndex& index, int64_t size);
// The width from 2 to 16 whose positions take the fewest bits with this coder, tables included (the
// least among equals). REQUIRES: mask.kept() > 0; coder is not kContext.
POMONA_API int best_gap_bits(const Mask& mask, Coder coder = Coder::kHuffman);

// In the streams of a file a gap is one byte: itself below 128; above, the byte says the position
// of its highest bit and the three bits that follow, and the bits after those stand apart. The
// filler is the last symbol.
//   gap  0 .. 127      symbol = gap
//        2^m .. 2^(m+1) - 1, m >= 7    symbol = 128 + 8 (m - 7) + the three bits; m - 3 extra bits
POMONA_API int64_t gap_alphabet(int gap_bits);  // symbols, the filler included

// One entry as the thesis and EIE store it: code 0 is the filler's zero, a weight's code is one
// more than its code in `Weight`, and a filler's gap is the largest, 2^gap_bits - 1.
// Source: EIE §III-B (v and z of Figure 2's text: [0,0,1,2,(18 zeros),3] is v = 1 2 0 3, z = 2 0 15
// 2 with 4 bits).
struct StoredEntry {
  uint16_t gap = 0;
  uint16_t code = 0;
  bool operator==(const StoredEntry&) const = default;
};
// REQUIRES: one code for each gap that is no filler, or InvalidArgument.
POMONA_API std::vector<StoredEntry> stored_entries(const RelativeIndex& index,
                                                   std::span<const uint8_t> codes);

// Step 1: how often each symbol of the alphabet occurs. Throws InvalidArgument for an alphabet
// outside 1..256 or a symbol outside it.
POMONA_API std::vector<uint64_t> histogram(std::span<const uint8_t> symbols, int64_t alphabet);

// Step 2: the length of each symbol's code, such that sum count * length is least among prefix
// codes of at most `limit` bits; 0 for a symbol that does not occur. A single symbol gets length 1.
// By package-merge (Larmore and Hirschberg 1990), O(limit * n). Deterministic: among equal counts
// the higher symbol's code is the longer. Throws InvalidArgument for a limit outside 1..15, more
// symbols than 2^limit, or counts that add up to 2^48 or more.
POMONA_API std::vector<uint8_t> huffman_lengths(std::span<const uint64_t> counts,
                                                int limit = kMaxCodeLength);

// Step 3: the canonical codes of those lengths, most significant bit first; 0 where the length is
// 0. Shorter codes come first, among equals the lower symbols. Throws InvalidArgument unless the
// lengths, at most 15, make a complete code: sum of 2^-length = 1, or a single symbol of length 1.
POMONA_API std::vector<uint16_t> canonical_codes(std::span<const uint8_t> lengths);

// Steps 4 and 5: the coder's table and one piece with all symbols. Throws InvalidArgument for an
// alphabet outside 1..256, a symbol outside it, or kContext, which codes no symbols without a mask.
POMONA_API std::vector<std::byte> encode_symbols(std::span<const uint8_t> symbols, int64_t alphabet,
                                                 Coder coder = Coder::kHuffman);
// About the bits that encode_symbols makes for symbols with these counts, padding left out.
POMONA_API double coded_size_bits(std::span<const uint64_t> counts, Coder coder = Coder::kHuffman);

// The inverse of encode_symbols. Throws CorruptFile (section "symbol stream", offset within
// `bytes`) for bytes that encode_symbols would not make for `count` symbols.
POMONA_API std::vector<uint8_t> decode_symbols(std::span<const std::byte> bytes, int64_t count,
                                               int64_t alphabet, Coder coder = Coder::kHuffman);

}  // namespace pomona
