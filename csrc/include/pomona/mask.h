#pragma once
// Which weights of a tensor are kept: one bit a weight, row-major, bit i of word i / 64.

#include "pomona/export.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

class POMONA_API Mask {
 public:
  Mask() = default;
  // All `size` weights kept, or all pruned. Throws InvalidArgument when size < 0.
  explicit Mask(int64_t size, bool keep = true);
  // From words as words() returns them; bits past `size` are cleared. REQUIRES: words.size() ==
  // ceil(size / 64).
  Mask(int64_t size, std::vector<uint64_t> words);

  int64_t size() const { return size_; }
  // How many weights are kept. O(size / 64).
  int64_t kept() const;
  // 1 - kept / size; 0 for an empty mask.
  double sparsity() const;
  // REQUIRES: 0 <= i < size().
  bool operator[](int64_t i) const {
    return ((words_[static_cast<size_t>(i >> 6)] >> (i & 63)) & 1) != 0;
  }
  void set(int64_t i, bool keep);
  // Bits past size() are 0. Valid while the mask lives.
  std::span<const uint64_t> words() const { return words_; }
  // 64-bit FNV-1a over size and words: equal masks have equal hashes on every machine (ranks
  // compare it).
  uint64_t hash() const;

  // Bitwise, sizes equal or InvalidArgument.
  Mask operator&(const Mask& other) const;
  Mask operator|(const Mask& other) const;
  Mask operator~() const;
  bool operator==(const Mask&) const = default;

  // The row-aligned bytes that operators and state_dicts hold: `rows` rows of ceil(size / rows / 8)
  // bytes, bit j of row r at bit j % 8 of byte j / 8. So Shard(0) of the bytes is the mask of
  // Shard(0) of the weight. Throws InvalidArgument unless rows divides size (rows == 0 only when
  // size == 0).
  std::vector<uint8_t> to_row_bytes(int64_t rows) const;
  static Mask from_row_bytes(std::span<const uint8_t> bytes, int64_t size, int64_t rows);

 private:
  int64_t size_ = 0;
  std::vector<uint64_t> words_;
};

}  // namespace pomona
