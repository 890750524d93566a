#pragma once
// Values that no codebook holds, without loss: element by element their bits are turned so that the
// exponent fills a byte, then all first bytes, all second bytes, ... are coded each on its own. The
// exponents of trained weights have some three bits of entropy; the rest is noise.
// Source: docs/format.md, "Values".

#include "pomona/file.h"

#include "encode/chunks.h"
#include "encode/coded_part.h"
#include "encode/symbol_coder.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

struct CodedValues {
  ValueForm form = ValueForm::kRaw;
  int64_t distance = 0;
  CodedPart part{};
};

// What is smallest of that which the goal allows. `values` has one for each kept weight.
CodedValues encode_values(std::span<const std::byte> values, const FileEntry& entry,
                          std::span<const Chunk> chunks, const Coding& coding);

class ValuesDecoder {
 public:
  // Reads the tables that begin `bytes`. Throws CorruptFile (offset within `bytes`).
  ValuesDecoder(DType dtype, ValueForm form, int64_t distance, std::span<const std::byte> bytes);

  size_t table_size() const { return table_size_; }
  // Fills `values`. Throws CorruptFile (offset within `piece`).
  void decode(std::span<const std::byte> piece, std::span<std::byte> values) const;

 private:
  DType dtype_;
  ValueForm form_;
  int64_t distance_;
  std::vector<SymbolDecoder> planes_;
  size_t table_size_ = 0;
};

}  // namespace pomona
