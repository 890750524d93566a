#pragma once
// Which weights of a tensor are kept: one bit a weight, row-major, bit i of word i / 64.

#include "pomona/export.h"

#include <bit>
#include <cstdint>
#include <span>
#include <type_traits>
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

// Calls visit(i) for each weight that is kept, in order; a visit that returns false ends it.
// Returns whether all were visited. O(size / 64 + kept).
template <class Visit>
bool for_each_kept(const Mask& mask, Visit visit) {
  const auto visit_one = [&visit](size_t i) {
    if constexpr (std::is_same_v<std::invoke_result_t<Visit, size_t>, bool>) {
      return visit(i);
    } else {
      visit(i);
      return true;
    }
  };
  const auto words = mask.words();
  for (size_t w = 0; w < words.size(); ++w) {
    if (words[w] == ~uint64_t{0}) {  // dense: no bit to look for
      for (size_t i = w * 64; i < w * 64 + 64; ++i) {
        if (!visit_one(i)) return false;
      }
      continue;
    }
    for (uint64_t word = words[w]; word != 0; word &= word - 1) {
      if (!visit_one(w * 64 + static_cast<size_t>(std::countr_zero(word)))) return false;
    }
  }
  return true;
}

}  // namespace pomona
