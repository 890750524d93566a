#pragma once
// The probabilities of rANS (range asymmetric numeral systems, Duda 2013) and their table in a
// file. Source: docs/format.md, "rANS".

#include "pomona/export.h"

#include "base/bit_io.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace pomona {

inline constexpr int kRansBits = 12;  // of a probability
inline constexpr uint32_t kRansOne = uint32_t{1} << kRansBits;

// Probabilities in units of 2^-12 that add up to 1: of each symbol that occurs at least one unit,
// of the others 0, ending with the highest that occurs. No others code these counts in fewer bits,
// sum of count * -log2(probability). In integers: the same on every machine. Symbol 0 alone where
// nothing occurs. REQUIRES: at most 256 symbols, counts that add up to less than 2^48.
POMONA_API std::vector<uint16_t> rans_frequencies(std::span<const uint64_t> counts);

// Mirrors: the table. REQUIRES when writing: frequencies as rans_frequencies makes them.
POMONA_API void put_frequencies(BitWriter& out, std::span<const uint16_t> frequencies);
POMONA_API uint64_t frequencies_size_bits(std::span<const uint16_t> frequencies);
// Of at most `alphabet` symbols; else what is wrong in `problem`.
POMONA_API std::vector<uint16_t> get_frequencies(BitReader& in, int64_t alphabet,
                                                 std::optional<std::string>& problem);

}  // namespace pomona
