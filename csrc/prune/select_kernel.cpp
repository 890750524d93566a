// Radix select: the k-th smallest |score| without a sort.
//
// Without its sign bit an IEEE number, read as an unsigned integer (its key), has the order of its
// magnitude, denormals and zeros included. The k-th smallest key is found digit by digit from the
// top: count the digits of the keys that share the prefix found so far, walk the counters to the
// digit that holds rank k, append it to the prefix.
//
//   float key   | 9 bits | 11 bits | 11 bits |         double key   | 8 bits | 5 x 11 bits |
#include "prune/select_kernel.h"

#include "pomona/error.h"
#include "pomona/selection.h"

#include "base/text.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

namespace pomona {
namespace {

constexpr int kDigitBits = 11;
constexpr size_t kWordBits = 64;

template <class Float>
using KeyOf = std::conditional_t<sizeof(Float) == 4, uint32_t, uint64_t>;

template <class Float>
KeyOf<Float> key_of(Float score) {
  return std::bit_cast<KeyOf<Float>>(score) & (~KeyOf<Float>{0} >> 1);
}

template <class Float>
std::optional<size_t> find_not_finite(std::span<const Float> scores) {
  const auto infinity = key_of(std::numeric_limits<Float>::infinity());
  bool is_finite = true;
  for (const Float score : scores) is_finite &= key_of(score) < infinity;
  if (is_finite) return std::nullopt;
  const auto wrong = std::find_if(scores.begin(), scores.end(),
                                  [&](Float score) { return key_of(score) >= infinity; });
  return static_cast<size_t>(wrong - scores.begin());
}

template <class Float>
void check_finite(std::span<const Float> scores) {
  if (const auto wrong = find_not_finite(scores)) {
    throw InvalidArgument(text("select_smallest: expected `scores` to be finite, got ",
                               std::isnan(scores[*wrong]) ? "NaN" : "Inf", " at index ", *wrong,
                               "."));
  }
}

// The largest key that goes, and how many of the kept scores with that very key go.
template <class Key>
struct Cut {
  Key key;
  int64_t ties;
};

// The key of rank `rank` (from 0) among the kept scores. REQUIRES: rank < mask.kept().
template <class Float>
Cut<KeyOf<Float>> find_cut(std::span<const Float> scores, const Mask& mask, int64_t rank) {
  using Key = KeyOf<Float>;
  constexpr Key kDigit = (Key{1} << kDigitBits) - 1;
  constexpr int kKeyBits = std::numeric_limits<Key>::digits - 1;
  constexpr int kTopShift = (kKeyBits - 1) / kDigitBits * kDigitBits;
  Key prefix = 0;
  for (int shift = kTopShift; shift >= 0; shift -= kDigitBits) {
    std::array<int64_t, size_t{1} << kDigitBits> count{};
    const int above = shift + kDigitBits;  // bits from here on are known; all unknown at the top
    for_each_kept(mask, [&](size_t i) {
      const Key key = key_of(scores[i]);
      if (shift == kTopShift || key >> above == prefix >> above) ++count[(key >> shift) & kDigit];
    });
    Key digit = 0;
    while (rank >= count[digit]) rank -= count[digit++];
    prefix |= digit << shift;
  }
  return {prefix, rank + 1};
}

// Prunes, of the kept, what is below the cut and the first `cut.ties` of what is equal to it.
template <class Float>
Mask prune_up_to(std::span<const Float> scores, Mask mask, Cut<KeyOf<Float>> cut) {
  std::vector<uint64_t> words(mask.words().begin(), mask.words().end());
  for (size_t w = 0; w < words.size(); ++w) {
    const auto block = scores.subspan(w * kWordBits)
                           .first(std::min(scores.size() - w * kWordBits, size_t{kWordBits}));
    uint64_t below = 0, equal = 0;
    for (size_t j = 0; j < block.size(); ++j) {
      const auto key = key_of(block[j]);
      below |= uint64_t{key < cut.key} << j;
      equal |= uint64_t{key == cut.key} << j;
    }
    equal &= words[w];
    while (std::popcount(equal) > cut.ties) equal &= ~std::bit_floor(equal);
    cut.ties -= std::popcount(equal);
    words[w] &= ~(below | equal);
  }
  return Mask(mask.size(), std::move(words));
}

template <class Float>
Mask select(std::span<const Float> scores, double sparsity, const Mask& previous) {
  const auto n = static_cast<int64_t>(scores.size());
  const int64_t target = pruned_count(n, sparsity);
  if (previous.size() != 0 && previous.size() != n) {
    throw InvalidArgument(text("select_smallest: expected `previous` to be empty or of size ", n,
                               ", got ", previous.size(), "."));
  }
  check_finite(scores);
  const Mask mask = previous.size() == 0 ? Mask(n) : previous;
  const int64_t going = target - (n - mask.kept());
  return going <= 0 ? mask : prune_up_to(scores, mask, find_cut(scores, mask, going - 1));
}

template <class Float>
double threshold(std::span<const Float> scores, const Mask& mask) {
  Float largest = 0;
  for_each_kept(~mask, [&](size_t i) { largest = std::max(largest, std::abs(scores[i])); });
  return static_cast<double>(largest);
}

}  // namespace

int64_t pruned_count(int64_t n, double sparsity) {
  if (n < 0) throw InvalidArgument(text("pruned_count: expected `n` of at least 0, got ", n, "."));
  if (!(sparsity >= 0 && sparsity < 1)) {
    throw InvalidArgument(text("pruned_count: expected `sparsity` in [0, 1), got ", sparsity, "."));
  }
  return static_cast<int64_t>(std::floor(static_cast<double>(n) * sparsity + 0.5));
}

Mask select_smallest(std::span<const float> scores, double sparsity, const Mask& previous) {
  return select(scores, sparsity, previous);
}

Mask select_smallest(std::span<const double> scores, double sparsity, const Mask& previous) {
  return select(scores, sparsity, previous);
}

std::optional<size_t> first_not_finite(std::span<const float> scores) {
  return find_not_finite(scores);
}

std::optional<size_t> first_not_finite(std::span<const double> scores) {
  return find_not_finite(scores);
}

double pruned_threshold(std::span<const float> scores, const Mask& mask) {
  return threshold(scores, mask);
}

double pruned_threshold(std::span<const double> scores, const Mask& mask) {
  return threshold(scores, mask);
}

}  // namespace pomona
