#pragma once
// The codes part of a section: a code for each kept weight, or for each weight where code 0 says
// that it is pruned. Source: docs/format.md, "Codes".

#include "pomona/file.h"
#include "pomona/mask.h"

#include "encode/chunks.h"
#include "encode/coded_part.h"
#include "encode/symbol_coder.h"

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace pomona {

struct CodedCodes {
  Coder coder = Coder::kFixed;
  CodedPart part{};
};

// What is smallest of that which the goal allows. `codes` has one for each kept weight.
CodedCodes encode_codes_part(std::span<const uint8_t> codes, const Mask& mask,
                             std::span<const Chunk> chunks, const CodedMatrix& shape,
                             int64_t centroids, const Coding& coding);

// A code for each weight, one more than its code in `codes`, or 0. REQUIRES: centroids < 256.
CodedCodes encode_in_codes(std::span<const uint8_t> codes, const Mask& mask,
                           std::span<const Chunk> chunks, int64_t centroids, const Coding& coding);

class CodesDecoder {
 public:
  // Reads the table that begins `bytes`. Throws CorruptFile (offset within `bytes`).
  CodesDecoder(const FileEntry& entry, std::span<const std::byte> bytes);

  size_t table_size() const { return symbols_ ? symbols_->table_size() : 0; }
  // One code for each kept weight of the chunk. Throws CorruptFile (offset within `piece`).
  std::vector<uint8_t> decode(std::span<const std::byte> piece, const Chunk& chunk,
                              const Mask& mask) const;
  // Codes of each weight of the chunk, as its mask and the codes of those that are kept.
  struct MaskAndCodes {
    Mask mask;
    std::vector<uint8_t> codes;
  };
  MaskAndCodes decode_in_codes(std::span<const std::byte> piece, const Chunk& chunk) const;

 private:
  const FileEntry& entry_;
  CodedMatrix shape_;
  std::optional<SymbolDecoder> symbols_;
};

}  // namespace pomona
