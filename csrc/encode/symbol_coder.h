#pragma once
// The three coders of plain symbols behind one face: a table, made once for a tensor, and pieces
// that are coded with it, each on its own. Source: docs/format.md, "Symbol streams".

#include "pomona/encode.h"
#include "pomona/export.h"

#include "encode/huffman_kernel.h"
#include "encode/rans_kernel.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

namespace pomona {

// Each symbol in `width` bits.
struct FixedWidth {
  int width = 0;
  std::vector<std::byte> encode(std::span<const uint8_t> symbols) const;
  void decode(std::span<const std::byte> piece, std::span<uint8_t> symbols) const;
};

class POMONA_API SymbolEncoder {
 public:
  // Made for symbols with these counts; counts.size() is the alphabet. REQUIRES: coder is not
  // kContext.
  SymbolEncoder(Coder coder, std::span<const uint64_t> counts);

  const std::vector<std::byte>& table() const { return table_; }
  // Empty where no symbol takes a bit.
  std::vector<std::byte> encode(std::span<const uint8_t> symbols) const;

 private:
  std::vector<std::byte> table_;
  std::variant<FixedWidth, HuffmanEncoder, RansEncoder> coder_;
};

class POMONA_API SymbolDecoder {
 public:
  // Reads the table that begins `bytes`. Throws CorruptFile (section "symbol stream", offset within
  // `bytes`).
  SymbolDecoder(Coder coder, std::span<const std::byte> bytes, int64_t alphabet);

  size_t table_size() const { return table_size_; }  // bytes
  // Fills `symbols`. Throws CorruptFile (offset within `piece`) for bytes that encode() would not
  // make, symbols outside the alphabet among them. Any number of threads.
  void decode(std::span<const std::byte> piece, std::span<uint8_t> symbols) const;

 private:
  using AnyDecoder = std::variant<FixedWidth, HuffmanDecoder, RansDecoder>;
  AnyDecoder read_table(Coder coder, std::span<const std::byte> bytes);

  int64_t alphabet_;
  size_t table_size_ = 0;
  AnyDecoder coder_;
};

// The cheapest of these coders for symbols with these counts.
struct CheapestCoder {
  Coder coder = Coder::kFixed;
  double size_bits = 0;
};
POMONA_API CheapestCoder cheapest_coder(std::span<const uint64_t> counts,
                                        std::span<const Coder> coders);

// How often each symbol of an alphabet of 256 occurs: four tables, so that a run of one symbol does
// not wait for itself.
std::vector<uint64_t> count_bytes(std::span<const uint8_t> symbols);

}  // namespace pomona
