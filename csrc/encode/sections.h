#pragma once
// A Weight as the bytes of its section, and back, chunk by chunk. Source: docs/format.md,
// "Sections".

#include "pomona/file.h"
#include "pomona/weight.h"

#include "encode/chunks.h"
#include "encode/codes.h"
#include "encode/planes.h"
#include "encode/positions.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace pomona {

struct CodedTensor {
  FileEntry entry;  // everything but its offset
  std::vector<std::byte> section{};
};
// REQUIRES: weight.check() passed.
CodedTensor encode_tensor(const Weight& weight, const Coding& coding);

// What a section holds, read piece by piece. It names section and byte of the file in CorruptFile,
// for any bytes that encode_tensor would not make.
class TensorDecoder {
 public:
  // Reads codebooks, tables and what lies where. REQUIRES: the section has the size that `entry`
  // says; both outlive this.
  TensorDecoder(const FileEntry& entry, std::span<const std::byte> section);

  size_t chunk_count() const { return chunks_.size(); }
  const Chunk& chunk(size_t index) const { return chunks_[index].where; }
  // The bytes that decode(index) reads.
  std::span<const std::byte> bytes_of(size_t index) const;

  struct Decoded {
    Mask mask;
    std::vector<uint8_t> codes;  // of a tensor with codebooks
    std::vector<std::byte> values;
  };
  // Any number of threads.
  Decoded decode(size_t index) const;
  // The same as elements: chunk(index).size of them. Returns how many are kept.
  int64_t decode_into(size_t index, std::span<std::byte> dense) const;

  // The whole tensor.
  Weight weight(const ParallelFor& parallel) const;

 private:
  struct Place {
    Chunk where;
    int64_t fillers = 0;
    std::span<const std::byte> positions;
    std::span<const std::byte> payload;  // codes or values
  };
  void read_tables();
  void check_codebooks() const;
  void read_chunk_table();
  void place_pieces();
  [[noreturn]] void refuse_kept(size_t got) const;
  template <class Decode>
  auto in_part(std::string_view part, std::span<const std::byte> bytes, Decode decode) const;

  const FileEntry& entry_;
  std::span<const std::byte> section_;
  std::vector<float> codebook_;
  std::vector<uint32_t> entry_bits_;  // the same as elements of the dtype
  std::optional<PositionsDecoder> positions_;
  std::optional<CodesDecoder> codes_;
  std::optional<ValuesDecoder> values_;
  std::vector<Place> chunks_;
  std::vector<uint64_t> position_sizes_, payload_sizes_;  // of the pieces of each chunk
  size_t at_ = 0;                                         // read so far
};

}  // namespace pomona
