#include "prune/radix_select_kernel.h"

#include "pomona/error.h"

#include "prune/select_pass_kernel.h"

#include <algorithm>
#include <bit>
#include <type_traits>
#include <vector>

namespace pomona {
namespace {

constexpr size_t kWordBits = 64;

// The lowest `count` bits.
constexpr uint64_t low_bits(size_t count) {
  return count >= kWordBits ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

template <class Visit>
void for_each_set(std::span<const uint64_t> words, size_t size, Visit visit) {
  for (size_t w = 0; w < words.size(); ++w) {
    uint64_t word = words[w] & low_bits(size - w * kWordBits);
    for (; word != 0; word &= word - 1) {
      visit(w * kWordBits + static_cast<size_t>(std::countr_zero(word)));
    }
  }
}

void sum_over_ranks(std::span<int64_t> counts, const SelectionRanks& ranks) {
  if (ranks.size > 1) ranks.sum(counts);
}

// The tensors that this rank counts.
std::vector<size_t> counted_parts(const RadixParts& parts, const SelectionRanks& ranks) {
  std::vector<size_t> counted;
  for (size_t p = 0; p < parts.size(); ++p) {
    if (!parts.is_replicated(p) || ranks.rank == 0) counted.push_back(p);
  }
  return counted;
}

struct Cut {
  uint64_t key = 0;            // biased
  int64_t ties = 0;            // how many of the keys that equal it go
  std::vector<int64_t> equal;  // how many there are, of each counted tensor
};

// The key of rank `rank` (from 0) among the live scores of all ranks.
Cut find_cut(RadixParts& parts, std::span<const size_t> counted, int key_bits, int64_t rank,
             const SelectionRanks& ranks) {
  Cut cut{0, 0, std::vector<int64_t>(counted.size())};
  std::vector<int64_t> counts(counted.size() * kDigitValues), total(kDigitValues);
  for (int shift = top_shift(key_bits); shift >= 0; shift -= kDigitBits) {
    std::fill(counts.begin(), counts.end(), 0);
    std::fill(total.begin(), total.end(), 0);
    parts.count(counted, {shift, cut.key}, counts);
    for (size_t i = 0; i < counts.size(); ++i) total[i % kDigitValues] += counts[i];
    sum_over_ranks(total, ranks);
    size_t digit = 0;
    while (digit < kDigitValues && rank >= total[digit]) rank -= total[digit++];
    if (digit == kDigitValues) {
      throw InvalidArgument(
          "select_pool: expected the counters of every rank to hold all its live scores, got too "
          "few. Check that `ranks.sum` adds and that no score changes meanwhile.");
    }
    cut.key = cut.key << kDigitBits | digit;
    for (size_t c = 0; c < counted.size(); ++c) cut.equal[c] = counts[c * kDigitValues + digit];
  }
  cut.ties = rank + 1;
  return cut;
}

// Of the scores equal to the cut, how many of each tensor go here: earlier tensors first, then
// lower ranks.
std::vector<int64_t> share_ties(const RadixParts& parts, std::span<const size_t> counted, Cut cut,
                                const SelectionRanks& ranks) {
  const auto size = static_cast<size_t>(ranks.size);
  const auto slot = [&](size_t p) {
    return p * size + static_cast<size_t>(parts.is_replicated(p) ? 0 : ranks.rank);
  };
  std::vector<int64_t> equal(parts.size() * size);
  for (size_t c = 0; c < counted.size(); ++c) equal[slot(counted[c])] = cut.equal[c];
  sum_over_ranks(equal, ranks);
  for (int64_t& count : equal) {
    count = std::min(count, cut.ties);
    cut.ties -= count;
  }
  std::vector<int64_t> mine;
  for (size_t p = 0; p < parts.size(); ++p) mine.push_back(equal[slot(p)]);
  return mine;
}

}  // namespace

template <class Key>
void count_digits(std::span<const Key> bits, std::span<const uint64_t> words, const KeyDigit& digit,
                  bool by_value, std::span<int64_t, kDigitValues> counts) {
  using Biased = std::make_unsigned_t<Key>;
  constexpr int kKeyBits = static_cast<int>(sizeof(Key)) * 8;
  constexpr auto kSign = static_cast<Biased>(Biased{1} << (kKeyBits - 1));
  const int above = digit.shift + kDigitBits;
  for_each_set(words, bits.size(), [&](size_t i) {
    const auto key = static_cast<Biased>(static_cast<Biased>(key_of(bits[i], by_value)) ^ kSign);
    const bool matches = above >= kKeyBits || uint64_t{key} >> above == digit.prefix;
    if (matches) ++counts[(key >> digit.shift) & (kDigitValues - 1)];
  });
}

template <class Key>
void prune_up_to(std::span<const Key> bits, std::span<uint64_t> words, Key cut, int64_t ties,
                 bool by_value) {
  for (size_t w = 0; w < words.size(); ++w) {
    const size_t count = std::min(bits.size() - w * kWordBits, kWordBits);
    uint64_t below = 0, equal = 0;
    for (size_t j = 0; j < count; ++j) {
      const Key key = key_of(bits[w * kWordBits + j], by_value);
      below |= uint64_t{key < cut} << j;
      equal |= uint64_t{key == cut} << j;
    }
    equal &= words[w];
    while (std::popcount(equal) > ties) equal &= ~std::bit_floor(equal);
    ties -= std::popcount(equal);
    words[w] &= ~(below | equal);
  }
}

std::optional<int64_t> radix_select(RadixParts& parts, int key_bits, int64_t target,
                                    const SelectionRanks& ranks) {
  const std::vector<size_t> counted = counted_parts(parts, ranks);
  int64_t pruned = 0;
  for (const size_t p : counted) pruned += parts.pruned(p);
  sum_over_ranks({&pruned, 1}, ranks);
  if (target <= pruned) return std::nullopt;
  const Cut found = find_cut(parts, counted, key_bits, target - pruned - 1, ranks);
  const auto cut = static_cast<int64_t>(found.key - (uint64_t{1} << (key_bits - 1)));
  const std::vector<int64_t> ties = share_ties(parts, counted, found, ranks);
  for (size_t p = 0; p < parts.size(); ++p) parts.prune(p, cut, ties[p]);
  return cut;
}

template POMONA_API void count_digits(std::span<const int16_t>, std::span<const uint64_t>,
                                      const KeyDigit&, bool, std::span<int64_t, kDigitValues>);
template POMONA_API void count_digits(std::span<const int32_t>, std::span<const uint64_t>,
                                      const KeyDigit&, bool, std::span<int64_t, kDigitValues>);
template POMONA_API void count_digits(std::span<const int64_t>, std::span<const uint64_t>,
                                      const KeyDigit&, bool, std::span<int64_t, kDigitValues>);
template POMONA_API void prune_up_to(std::span<const int16_t>, std::span<uint64_t>, int16_t,
                                     int64_t, bool);
template POMONA_API void prune_up_to(std::span<const int32_t>, std::span<uint64_t>, int32_t,
                                     int64_t, bool);
template POMONA_API void prune_up_to(std::span<const int64_t>, std::span<uint64_t>, int64_t,
                                     int64_t, bool);

}  // namespace pomona
