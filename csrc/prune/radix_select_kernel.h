#pragma once
// Radix select: the k-th smallest key of a pool of scores, digit by digit from the top, and the
// masks that follow. The driver sees counters only, so the CPU, a GPU (cuda/prune/
// select_kernel.cuh) and the ranks of a job share it.
//
//   key of a float    | 10 bits | 11 bits | 11 bits |     of a double    | 9 bits | 5 x 11 bits |
//   of a half         | 5 bits  | 11 bits |
//
// Keys are those of select_pass_kernel.h. Their digits are read with the top bit flipped
// ("biased"): then they ascend as unsigned integers.

#include "pomona/export.h"
#include "pomona/selection.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace pomona {

inline constexpr int kDigitBits = 11;
inline constexpr int kDigitValues = 1 << kDigitBits;

// A digit of those biased keys that agree above it.
struct KeyDigit {
  int shift = 0;        // of its lowest bit, a multiple of kDigitBits
  uint64_t prefix = 0;  // biased key >> (shift + kDigitBits); 0 at the top
};

// The shift of the digit with which to begin.
constexpr int top_shift(int key_bits) {
  return (key_bits - 1) / kDigitBits * kDigitBits;
}

// Adds to counts[v], for each live score of such a key, where v is its digit. `words` [ceil(size /
// 64)] is the mask; bits past the end are not read.
template <class Key>
POMONA_API void count_digits(std::span<const Key> bits, std::span<const uint64_t> words,
                             const KeyDigit& digit, bool by_value,
                             std::span<int64_t, kDigitValues> counts);

// Clears the bits of keys below `cut`, and of the first `ties` live ones that equal it.
template <class Key>
POMONA_API void prune_up_to(std::span<const Key> bits, std::span<uint64_t> words, Key cut,
                            int64_t ties, bool by_value);

// Scores and masks of the tensors of a pool, wherever they lie: what the driver asks of them.
class RadixParts {
 public:
  virtual ~RadixParts() = default;
  virtual size_t size() const = 0;  // tensors
  // Every rank holds the same whole tensor: it counts once.
  virtual bool is_replicated(size_t part) const = 0;
  // How many scores are masked now.
  virtual int64_t pruned(size_t part) = 0;
  // counts[c * kDigitValues + v] = count_digits of tensor which[c], digit v.
  virtual void count(std::span<const size_t> which, const KeyDigit& digit,
                     std::span<int64_t> counts) = 0;
  // prune_up_to.
  virtual void prune(size_t part, int64_t cut, int64_t ties) = 0;
};

// Masks the smallest live keys until `target` scores of all tensors and ranks are masked; ties: the
// earlier tensor, then the lower rank, then the lower index. Returns the largest key that went,
// nothing when as many were masked before. Every rank makes the same calls.
// Throws InvalidArgument when counters do not add up.
POMONA_API std::optional<int64_t> radix_select(RadixParts& parts, int key_bits, int64_t target,
                                               const SelectionRanks& ranks);

}  // namespace pomona
