// The k-th smallest score of a pool, without a sort, and the masks that follow from it.
//
// Many scores on one process: a sample of the pool gives a bracket that holds the cut almost
// surely; one pass (select_pass_kernel.h) masks what is below it and collects what is inside, about
// one score in a hundred, among which the cut is found. Where the bracket misses, or too many
// scores are equal, and wherever ranks select together: a radix select (radix_select_kernel.h).
#include "prune/select_kernel.h"

#include "pomona/error.h"
#include "pomona/selection.h"

#include "base/float16.h"
#include "base/text.h"
#include "prune/radix_select_kernel.h"
#include "prune/select_pass_kernel.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace pomona {
namespace {

constexpr size_t kWordBits = 64;
constexpr int64_t kSampleSize = int64_t{1} << 16;
constexpr int64_t kWorthASample = 4 * kSampleSize;
constexpr double kDeviations = 5;    // half the bracket's width, in standard deviations of a rank
constexpr int64_t kMostInside = 16;  // at most one score in so many may lie inside the bracket

template <class Key>
struct Part {
  std::span<const Key> bits;
  std::vector<uint64_t> words;  // the mask; bits past the end are 0
  bool is_replicated;
};

template <class Key>
using Parts = std::vector<Part<Key>>;

template <class Key>
int64_t count_pruned(const Part<Key>& part) {
  int64_t live = 0;
  for (const uint64_t word : part.words) live += std::popcount(word);
  return static_cast<int64_t>(part.bits.size()) - live;
}

// The parts as radix_select sees them.
template <class Key>
class HostParts : public RadixParts {
 public:
  HostParts(Parts<Key>& parts, bool by_value) : parts_(parts), by_value_(by_value) {}
  size_t size() const override { return parts_.size(); }
  bool is_replicated(size_t part) const override { return parts_[part].is_replicated; }
  int64_t pruned(size_t part) override { return count_pruned(parts_[part]); }
  void count(std::span<const size_t> which, const KeyDigit& digit,
             std::span<int64_t> counts) override {
    for (size_t c = 0; c < which.size(); ++c) {
      const auto& part = parts_[which[c]];
      count_digits<Key>(part.bits, part.words, digit, by_value_,
                        counts.subspan(c * kDigitValues).template first<kDigitValues>());
    }
  }
  void prune(size_t part, int64_t cut, int64_t ties) override {
    auto& [bits, words, is_replicated] = parts_[part];
    prune_up_to<Key>(bits, words, static_cast<Key>(cut), ties, by_value_);
  }

 private:
  Parts<Key>& parts_;
  bool by_value_;
};

template <class Key>
std::optional<size_t> find_not_finite(std::span<const Key> bits, int64_t infinity) {
  Key largest = 0;
  for (const Key bit : bits) largest = std::max(largest, key_of(bit, false));
  if (largest < infinity) return std::nullopt;
  const auto wrong = std::find_if(bits.begin(), bits.end(),
                                  [&](Key bit) { return key_of(bit, false) >= infinity; });
  return static_cast<size_t>(wrong - bits.begin());
}

// Selection over the parts of one pool.
template <class Key>
class Selector {
 public:
  Selector(Parts<Key> parts, DType dtype, const SelectOptions& options)
      : parts_(std::move(parts)), dtype_(dtype), options_(options) {}

  Selection select(double sparsity) {
    std::array<int64_t, 2> counts{};  // scores, masked scores
    for (const auto& part : parts_) {
      if (!is_counted(part)) continue;
      counts[0] += static_cast<int64_t>(part.bits.size());
      counts[1] += count_pruned(part);
    }
    sum(counts);
    const int64_t target = pruned_count(counts[0], sparsity);
    const bool may_sample = options_.ranks.size == 1 && counts[0] >= kWorthASample;
    if (may_sample && target > counts[1] && select_in_bracket(counts[0], target)) return finish();
    select_by_digits(target);
    return finish();
  }

 private:
  bool is_counted(const Part<Key>& part) const {
    return !part.is_replicated || options_.ranks.rank == 0;
  }
  Key key(const Part<Key>& part, size_t i) const { return key_of(part.bits[i], options_.by_value); }
  void sum(std::span<int64_t> counts) const {
    if (options_.ranks.size > 1) options_.ranks.sum(counts);
  }

  void check_finite() const {
    for (size_t p = 0; p < parts_.size(); ++p) {
      if (const auto wrong = find_not_finite(parts_[p].bits, infinity_key(dtype_))) {
        refuse(p, *wrong);
      }
    }
  }

  [[noreturn]] void refuse(size_t p, size_t i) const {
    const bool is_nan = key_of(parts_[p].bits[i], false) > infinity_key(dtype_);
    throw InvalidArgument(text("select_smallest: expected `scores` to be finite, got ",
                               is_nan ? "NaN" : "Inf", " at index ", i,
                               parts_.size() > 1 ? text(" of tensor ", p) : "", "."));
  }

  // Keys at regular places of the pool, masked ones left out; `masked` is how many those were.
  std::vector<Key> sample(int64_t n, int64_t& masked) const {
    std::vector<Key> keys;
    keys.reserve(static_cast<size_t>(kSampleSize));
    int64_t start = 0, taken = 0;
    for (const auto& part : parts_) {
      const int64_t end = start + static_cast<int64_t>(part.bits.size());
      for (; taken < kSampleSize; ++taken) {
        // A stride with a golden-ratio jitter: no period of the scores can hide from it.
        const double jitter = std::fmod(static_cast<double>(taken) * 0.6180339887498949, 1.0);
        const auto place = static_cast<int64_t>((static_cast<double>(taken) + jitter) *
                                                static_cast<double>(n) / kSampleSize);
        if (place >= end) break;
        const auto i = static_cast<size_t>(std::max(place - start, int64_t{0}));
        if ((part.words[i / kWordBits] >> (i % kWordBits) & 1) != 0) {
          keys.push_back(key(part, i));
        } else {
          ++masked;
        }
      }
      start = end;
    }
    return keys;
  }

  // A bracket that holds the cut almost surely; nothing when too many scores would lie inside.
  std::optional<Bracket<Key>> find_bracket(int64_t n, int64_t target) const {
    int64_t masked = 0;
    std::vector<Key> keys = sample(n, masked);
    const double share = static_cast<double>(target) / static_cast<double>(n);
    const auto size = static_cast<double>(kSampleSize);
    const double rank = share * size - static_cast<double>(masked);
    const double reach = kDeviations * std::sqrt(size * share * (1 - share)) + 8;
    const auto at = [&](double place, Key otherwise) {
      if (place < 0 || place >= static_cast<double>(keys.size())) return otherwise;
      const auto middle = keys.begin() + static_cast<int64_t>(place);
      std::nth_element(keys.begin(), middle, keys.end());
      return *middle;
    };
    const Key least = options_.by_value ? std::numeric_limits<Key>::min() : Key{0};
    Bracket<Key> bracket{at(rank - reach, least), at(rank + reach, std::numeric_limits<Key>::max()),
                         options_.by_value};
    if (options_.zeros_go) bracket.low = std::max(bracket.low, Key{1});
    const auto inside = std::count_if(keys.begin(), keys.end(),
                                      [&](Key k) { return k >= bracket.low && k <= bracket.high; });
    if (inside > kSampleSize / kMostInside) return std::nullopt;
    return bracket;
  }

  // One pass; false when the cut is not inside the bracket, and then the masks are as they were.
  bool select_in_bracket(int64_t n, int64_t target) {
    const auto bracket = find_bracket(n, target);
    if (!bracket) return false;
    std::vector<std::vector<uint64_t>> before;
    std::vector<Candidate<Key>> inside;
    inside.reserve(static_cast<size_t>(n / 64));
    int64_t pruned = 0;
    for (size_t p = 0; p < parts_.size(); ++p) {
      auto& part = parts_[p];
      before.push_back(part.words);
      const Key largest =
          select_pass<Key>(part.bits, *bracket, static_cast<uint32_t>(p), part.words, inside);
      if (largest >= infinity_key(dtype_)) check_finite();
      pruned += count_pruned(part);
    }
    const int64_t going = target - pruned;
    const bool zeros_are_all = going <= 0 && options_.zeros_go && bracket->low == Key{1};
    if (zeros_are_all) return true;
    if (going < 1 || going > static_cast<int64_t>(inside.size())) {
      for (size_t p = 0; p < parts_.size(); ++p) parts_[p].words = std::move(before[p]);
      return false;
    }
    prune_candidates(inside, going);
    return true;
  }

  // The `going` smallest candidates go; they are in the order of ties.
  void prune_candidates(const std::vector<Candidate<Key>>& inside, int64_t going) {
    std::vector<Key> keys(inside.size());
    std::transform(inside.begin(), inside.end(), keys.begin(), [](const auto& c) { return c.key; });
    const auto cut = keys.begin() + (going - 1);
    std::nth_element(keys.begin(), cut, keys.end());
    int64_t ties = going - std::count_if(keys.begin(), cut, [&](Key k) { return k < *cut; });
    for (const auto& candidate : inside) {
      if (candidate.key > *cut || (candidate.key == *cut && ties-- <= 0)) continue;
      const auto i = static_cast<size_t>(candidate.index);
      parts_[candidate.part].words[i / kWordBits] &= ~(uint64_t{1} << (i % kWordBits));
    }
    threshold_ = score_of_key(*cut, dtype_, options_.by_value);
  }

  void select_by_digits(int64_t target) {
    if (options_.ranks.size == 1) check_finite();
    if (options_.zeros_go) prune_zeros();
    HostParts<Key> host(parts_, options_.by_value);
    const auto cut = radix_select(host, static_cast<int>(sizeof(Key)) * 8, target, options_.ranks);
    if (cut) threshold_ = score_of_key(*cut, dtype_, options_.by_value);
  }

  void prune_zeros() {
    for (auto& part : parts_) {
      for (size_t i = 0; i < part.bits.size(); ++i) {
        const uint64_t is_zero = key_of(part.bits[i], false) == 0 ? 1 : 0;
        part.words[i / kWordBits] &= ~(is_zero << (i % kWordBits));
      }
    }
  }

  Selection finish() {
    Selection selection{{}, threshold_};
    for (auto& part : parts_) {
      selection.masks.emplace_back(static_cast<int64_t>(part.bits.size()), std::move(part.words));
    }
    return selection;
  }

  Parts<Key> parts_;
  DType dtype_;
  const SelectOptions& options_;
  double threshold_ = 0;
};

template <class Key>
Selection select_keys(std::span<const Scores> pool, double sparsity, std::vector<Mask>& previous,
                      const SelectOptions& options) {
  Parts<Key> parts;
  for (size_t p = 0; p < pool.size(); ++p) {
    const std::span bits(static_cast<const Key*>(pool[p].data), static_cast<size_t>(pool[p].size));
    const auto words = previous[p].words();
    parts.push_back({bits, {words.begin(), words.end()}, pool[p].is_replicated});
  }
  return Selector<Key>(std::move(parts), pool[0].dtype, options).select(sparsity);
}

Mask select_one(const Scores& scores, double sparsity, const Mask& previous) {
  if (previous.size() != 0 && previous.size() != scores.size) {
    throw InvalidArgument(text("select_smallest: expected `previous` to be empty or of size ",
                               scores.size, ", got ", previous.size(), "."));
  }
  std::vector<Mask> masks{previous.size() == 0 ? Mask(scores.size) : previous};
  return std::move(select_pool({&scores, 1}, sparsity, std::move(masks)).masks[0]);
}

}  // namespace

int64_t infinity_key(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 0x7f800000;
    case DType::kFloat16:
      return 0x7c00;
    case DType::kBFloat16:
      return 0x7f80;
    default:
      return 0x7ff0000000000000;
  }
}

double score_of_key(int64_t key, DType dtype, bool by_value) {
  const auto bits = [&](auto narrow) { return by_value ? key_of(narrow, true) : narrow; };
  switch (dtype) {
    case DType::kFloat32:
      return double{std::bit_cast<float>(bits(static_cast<int32_t>(key)))};
    case DType::kFloat16:
      return double{float_from_float16(static_cast<uint16_t>(bits(static_cast<int16_t>(key))))};
    case DType::kBFloat16:
      return double{float_from_bfloat16(static_cast<uint16_t>(bits(static_cast<int16_t>(key))))};
    default:
      return std::bit_cast<double>(bits(key));
  }
}

int64_t pruned_count(int64_t n, double sparsity) {
  if (n < 0) throw InvalidArgument(text("pruned_count: expected `n` of at least 0, got ", n, "."));
  if (!(sparsity >= 0 && sparsity < 1)) {
    throw InvalidArgument(text("pruned_count: expected `sparsity` in [0, 1), got ", sparsity, "."));
  }
  return static_cast<int64_t>(std::floor(static_cast<double>(n) * sparsity + 0.5));
}

Selection select_pool(std::span<const Scores> pool, double sparsity, std::vector<Mask> previous,
                      const SelectOptions& options) {
  pruned_count(0, sparsity);  // refuses a sparsity outside [0, 1)
  if (previous.size() != pool.size()) {
    throw InvalidArgument(text("select_pool: expected one `previous` for each of ", pool.size(),
                               " tensors, got ", previous.size(), "."));
  }
  for (size_t p = 0; p < pool.size(); ++p) {
    if (previous[p].size() != pool[p].size || pool[p].dtype != pool[0].dtype) {
      throw InvalidArgument(text("select_pool: expected tensor ", p, " of size ",
                                 previous[p].size(), " and dtype ", dtype_name(pool[0].dtype),
                                 ", got ", pool[p].size, " and ", dtype_name(pool[p].dtype), "."));
    }
  }
  if (pool.empty()) return {};
  switch (pool[0].dtype) {
    case DType::kFloat32:
      return select_keys<int32_t>(pool, sparsity, previous, options);
    case DType::kFloat16:
    case DType::kBFloat16:
      return select_keys<int16_t>(pool, sparsity, previous, options);
    case DType::kFloat64:
      return select_keys<int64_t>(pool, sparsity, previous, options);
    default:
      throw InvalidArgument(text("select_pool: expected scores of a floating-point dtype, got ",
                                 dtype_name(pool[0].dtype), "."));
  }
}

Mask select_smallest(std::span<const float> scores, double sparsity, const Mask& previous) {
  return select_one({scores.data(), static_cast<int64_t>(scores.size()), DType::kFloat32}, sparsity,
                    previous);
}

Mask select_smallest(std::span<const double> scores, double sparsity, const Mask& previous) {
  return select_one({scores.data(), static_cast<int64_t>(scores.size()), DType::kFloat64}, sparsity,
                    previous);
}

std::optional<int64_t> first_not_finite(const Scores& scores) {
  const auto size = static_cast<size_t>(scores.size);
  const int64_t infinity = infinity_key(scores.dtype);
  const auto find = [&](auto key) -> std::optional<int64_t> {
    using Key = decltype(key);
    return find_not_finite(std::span(static_cast<const Key*>(scores.data), size), infinity);
  };
  switch (item_size(scores.dtype)) {
    case 2:
      return find(int16_t{});
    case 4:
      return find(int32_t{});
    default:
      return find(int64_t{});
  }
}

}  // namespace pomona
