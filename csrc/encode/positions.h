#pragma once
// The positions part of a section: which weights of each chunk are kept. Source: docs/format.md,
// "Positions".

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

struct CodedPositions {
  Positions kind = Positions::kNone;
  Coder coder = Coder::kFixed;
  int gap_bits = 0;
  std::vector<int64_t> fillers{};  // of each chunk
  CodedPart part{};
};

// What is smallest of that which the goal allows. REQUIRES: some weights are kept and some are not.
CodedPositions encode_positions(const Mask& mask, std::span<const Chunk> chunks,
                                const CodedMatrix& shape, const Coding& coding);

class PositionsDecoder {
 public:
  // Reads the table that begins `bytes`. Throws CorruptFile (offset within `bytes`).
  PositionsDecoder(const FileEntry& entry, std::span<const std::byte> bytes);

  size_t table_size() const { return gaps_ ? gaps_->table_size() : 0; }
  // The mask of a chunk. Throws CorruptFile (offset within `piece`) for bytes that
  // encode_positions would not make of a chunk with so many kept.
  Mask decode(std::span<const std::byte> piece, const Chunk& chunk, int64_t fillers) const;

 private:
  Mask decode_gaps(std::span<const std::byte> piece, const Chunk& chunk, int64_t fillers) const;
  Mask decode_bitmask(std::span<const std::byte> piece, const Chunk& chunk) const;

  const FileEntry& entry_;
  CodedMatrix shape_;
  std::optional<SymbolDecoder> gaps_;
};

}  // namespace pomona
