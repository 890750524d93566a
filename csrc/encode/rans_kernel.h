#pragma once
// Pieces of symbols coded by rANS: interleaved states of 32 bits that take in 16 bits at a time.
// Symbol i belongs to state i mod lanes, so that 16 of them are one vector. One string of bytes for
// every instruction set. Source: docs/format.md, "rANS".

#include "pomona/export.h"

#include "base/isa.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// How many states a piece of that many symbols has: each costs two bytes or so.
inline constexpr size_t kMostRansLanes = 64;
constexpr size_t rans_lanes(size_t symbols) {
  return symbols < 1024 ? 1 : symbols < 32768 ? 8 : kMostRansLanes;
}

inline constexpr uint32_t kLowestRansState = uint32_t{1} << 16;  // where the encoder starts
inline constexpr int kRansWordBits = 16;

class POMONA_API RansEncoder {
 public:
  // REQUIRES: frequencies as rans_frequencies makes them.
  explicit RansEncoder(std::span<const uint16_t> frequencies);

  // REQUIRES: no symbol has the probability 0.
  std::vector<std::byte> encode(std::span<const uint8_t> symbols) const;

 private:
  struct Symbol {
    uint32_t frequency = 0;
    uint32_t before = 0;      // probabilities of the symbols below
    uint64_t reciprocal = 0;  // 2^44 / frequency, rounded up
  };
  // The state after `symbol`; a word that leaves it goes before `front`, where there is room for
  // one.
  static uint32_t put_symbol(const Symbol& symbol, uint32_t state, std::byte*& front);

  std::array<Symbol, 256> symbols_{};
  bool is_lone_ = false;
};

class POMONA_API RansDecoder {
 public:
  // REQUIRES: as RansEncoder.
  explicit RansDecoder(std::span<const uint16_t> frequencies, Isa isa = Isa::kBest);

  // Fills `symbols`. Throws CorruptFile (section "symbol stream", offset within `piece`) for bytes
  // that encode() would not make of so many symbols. Any number of threads.
  void decode(std::span<const std::byte> piece, std::span<uint8_t> symbols) const;

 private:
  Isa isa_;
  size_t alphabet_;
  uint8_t lone_ = 0;
  // What each of the 4096 numbers that 12 bits hold stands for: symbol | frequency << 8 | number
  // within the symbol << 20. Empty where a symbol is alone.
  std::vector<uint32_t> table_;
  // For a search in registers: where each symbol begins, padded with 4096 (of at most 64 symbols).
  std::array<uint16_t, 64> begins_{};
  std::array<uint16_t, 64> frequencies_{};
};

}  // namespace pomona
