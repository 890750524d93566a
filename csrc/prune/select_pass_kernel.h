#pragma once
// One pass over scores: which lie below a bracket, which inside; 64 at a time, as words of a mask.
//
// A score is compared as an integer, its key. An IEEE number without its sign bit has the order of
// its magnitude; with the other bits flipped when it is negative, that of its value. Keys are
// signed integers, so that every instruction set compares them as they are.

#include "pomona/export.h"

#include "base/isa.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

template <class Key>
struct Bracket {
  Key low;   // keys below go
  Key high;  // keys from low to high, both included, are candidates
  bool by_value;
};

template <class Key>
struct Candidate {
  Key key;
  uint32_t part;  // which tensor
  int64_t index;
};

// What one pass over a tensor finds. `words` [ceil(size / 64)] holds the mask before; after, the
// bits of scores below the bracket are cleared, those of candidates still set. Appends the
// candidates in order of their index. Returns the largest magnitude's key among all scores, masked
// or not: at least that of infinity when one is not finite. REQUIRES: has_isa(isa); bits past
// `size` in the last word are 0.
template <class Key>
POMONA_API Key select_pass(std::span<const Key> bits, const Bracket<Key>& bracket, uint32_t part,
                           std::span<uint64_t> words, std::vector<Candidate<Key>>& candidates,
                           Isa isa = Isa::kBest);

template <class Key>
constexpr Key magnitude_mask() {
  return static_cast<Key>(~(Key{1} << (sizeof(Key) * 8 - 1)));
}

// REQUIRES: Key is a signed integer.
template <class Key>
constexpr Key key_of(Key bits, bool by_value) {
  if (!by_value) return static_cast<Key>(bits & magnitude_mask<Key>());
  const auto sign = static_cast<Key>(bits >> (sizeof(Key) * 8 - 1));  // 0 or -1
  return static_cast<Key>(bits ^ (sign & magnitude_mask<Key>()));
}

}  // namespace pomona
