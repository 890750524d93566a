#pragma once
// Huffman codes as streams of bits: the table of code lengths, and the codes of symbols
// (docs/format.md, "Symbol streams"). What is public of it stands in pomona/encode.h.

#include "base/bit_io.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace pomona {

inline constexpr int kMaxLengthAnywhere = 15;  // of a code, so that it fits uint16_t with room

// Nothing when the lengths make a complete code, or a single symbol of length 1; else what is
// wrong.
std::optional<std::string> problem_of(std::span<const uint8_t> lengths);

// The single symbol that has a code, if only one has.
std::optional<size_t> lone_symbol(std::span<const uint8_t> lengths);

// Mirrors: the table of lengths. REQUIRES when writing: lengths.back() > 0.
void put_lengths(BitWriter& out, std::span<const uint8_t> lengths);
uint64_t lengths_size_bits(std::span<const uint8_t> lengths);
// At most `alphabet` lengths of at most kMaxCodeLength that pass problem_of(); else what is wrong
// in `problem`.
std::vector<uint8_t> get_lengths(BitReader& in, int64_t alphabet,
                                 std::optional<std::string>& problem);

// Canonical codes with their bits turned round: the first bit of a code is its lowest here, as it
// goes into the stream.
std::vector<uint16_t> reversed_codes(std::span<const uint8_t> lengths);

}  // namespace pomona
