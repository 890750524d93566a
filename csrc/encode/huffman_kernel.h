#pragma once
// Pieces of Huffman-coded symbols. A large piece is six streams side by side: a look-up waits for
// the one before it in its own stream only, so six of them keep the processor busy. A look-up gives
// one symbol, up to three or up to six, whichever is fastest for the code. Source: docs/format.md,
// "Huffman".

#include "pomona/export.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace pomona {

// How many streams a piece of that many symbols has.
inline constexpr size_t kHuffmanStreams = 6;
inline constexpr size_t kFirstWithStreams = 2048;  // symbols
constexpr size_t huffman_streams(size_t symbols) {
  return symbols < kFirstWithStreams ? 1 : kHuffmanStreams;
}

class POMONA_API HuffmanEncoder {
 public:
  // REQUIRES: a complete code with lengths of at most kMaxCodeLength, of at most 256 symbols.
  explicit HuffmanEncoder(std::span<const uint8_t> lengths);

  // REQUIRES: every symbol has a code.
  std::vector<std::byte> encode(std::span<const uint8_t> symbols) const;

 private:
  std::array<uint32_t, 256> codes_{};  // the code, its first bit lowest, and above 16 its length
  bool is_lone_ = false;
};

class POMONA_API HuffmanDecoder {
 public:
  // REQUIRES: as HuffmanEncoder.
  explicit HuffmanDecoder(std::span<const uint8_t> lengths);

  // Fills `symbols`. Throws CorruptFile (section "symbol stream", offset within `piece`) for bytes
  // that encode() would not make of so many symbols. Any number of threads.
  void decode(std::span<const std::byte> piece, std::span<uint8_t> symbols) const;

 private:
  struct Many;
  const Many& many() const;

  // What the next bits of a stream, as many as the longest code has, begin with: symbol | length <<
  // 8. Empty where a symbol is alone.
  std::vector<uint16_t> singles_;
  std::shared_ptr<Many> many_;  // filled by the first large piece: small tensors do without
  double mean_length_ = 0;      // bits
  uint8_t lone_ = 0;
};

}  // namespace pomona
