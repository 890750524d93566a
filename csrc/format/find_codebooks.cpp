#include "format/find_codebooks.h"

#include "base/float16.h"
#include "base/little_endian.h"
#include "base/text.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

namespace pomona {
namespace {

constexpr size_t kMaxCentroids = 256;  // a code is one byte

// Numbers bit patterns 0, 1, 2, ... as they are first seen, up to kMaxCentroids of them. An open
// hash table four times as large, so a look-up is one or two probes.
class DistinctBits {
 public:
  // The number of `bits`, or nothing when there are too many.
  std::optional<uint8_t> number_of(uint32_t bits) {
    size_t slot = (bits * 0x9e3779b1u) >> (32 - kSlotBits);
    while (slots_[slot] != 0 && seen_[slots_[slot] - 1u] != bits) slot = (slot + 1) % kSlots;
    if (slots_[slot] == 0) {
      if (seen_.size() == kMaxCentroids) return std::nullopt;
      seen_.push_back(bits);
      used_slots_.push_back(static_cast<uint16_t>(slot));
      slots_[slot] = static_cast<uint16_t>(seen_.size());
    }
    return static_cast<uint8_t>(slots_[slot] - 1);
  }
  const std::vector<uint32_t>& seen() const { return seen_; }
  void clear() {
    for (const uint16_t slot : used_slots_) slots_[slot] = 0;
    used_slots_.clear();
    seen_.clear();
  }

 private:
  static constexpr int kSlotBits = 10;
  static constexpr size_t kSlots = size_t{1} << kSlotBits;
  std::array<uint16_t, kSlots> slots_{};  // number + 1; 0 is free
  std::vector<uint16_t> used_slots_;
  std::vector<uint32_t> seen_;
};

int code_bits(size_t centroids) {
  return static_cast<int>(std::bit_width(centroids - 1));
}

// Bytes of codebooks and of codes in fixed width: what the file would take at most.
size_t shared_bytes(size_t kept, size_t entries, size_t centroids, size_t item) {
  return entries * item + (kept * static_cast<size_t>(code_bits(centroids)) + 7) / 8;
}

// Codebooks as they are found, group after group.
class Finder {
 public:
  Finder(DType dtype, size_t item) : dtype_(dtype), item_(item) {}

  // False when this value makes sharing impossible.
  bool add(uint32_t bits) {
    const auto number = distinct_.number_of(bits);
    if (!number || std::isnan(value_of(dtype_, bits))) return false;
    codes_.push_back(*number);
    return true;
  }

  // Ends a group: its numbers by first sight become codes of an ascending codebook.
  void end_group() {
    std::vector<float> entries;
    for (const uint32_t bits : distinct_.seen()) entries.push_back(value_of(dtype_, bits));
    std::vector<uint8_t> order(entries.size());
    std::iota(order.begin(), order.end(), uint8_t{0});
    std::ranges::sort(order,
                      [&](uint8_t a, uint8_t b) { return is_before(entries[a], entries[b]); });
    std::array<uint8_t, kMaxCentroids> code_of{};
    for (size_t code = 0; code < order.size(); ++code) {
      entries_.push_back(entries[order[code]]);
      code_of[order[code]] = static_cast<uint8_t>(code);
    }
    for (size_t i = group_begin_; i < codes_.size(); ++i) codes_[i] = code_of[codes_[i]];
    group_begin_ = codes_.size();
    sizes_.push_back(entries.size());
    most_ = std::max(most_, entries.size());
    distinct_.clear();
  }

  // Of codebooks of equal size and of the codes.
  size_t bytes() const { return shared_bytes(codes_.size(), most_ * sizes_.size(), most_, item_); }

  // Codebooks of equal size: each is padded with its last entry, an empty one with 0.
  void finish(Weight& weight) && {
    weight.codes = std::move(codes_);
    weight.codebook.clear();
    auto entry = entries_.begin();
    for (const size_t size : sizes_) {
      for (size_t i = 0; i < most_; ++i) {
        weight.codebook.push_back(size == 0 ? 0.0f
                                            : entry[static_cast<ptrdiff_t>(std::min(i, size - 1))]);
      }
      entry += static_cast<ptrdiff_t>(size);
    }
  }

  // So far codebooks and codes take so much that values would take less, or nearly.
  bool is_hopeless() const {
    constexpr size_t kEnough = 4096;  // weights to judge by
    const size_t kept = codes_.size();
    return kept >= kEnough &&
           4 * shared_bytes(kept, entries_.size(), std::max<size_t>(most_, 1), item_) >
               3 * kept * item_;
  }

 private:
  DType dtype_;
  size_t item_;
  DistinctBits distinct_;
  std::vector<uint8_t> codes_;
  std::vector<float> entries_;
  std::vector<size_t> sizes_;
  size_t group_begin_ = 0;  // the first code of the group
  size_t most_ = 0;         // entries of the largest codebook
};

// Fills the weight when codebooks of so many elements take less than `most` bytes, and makes that
// the most.
template <class Bits>
void try_group(Weight& weight, std::span<const std::byte> dense, size_t group, size_t& most) {
  Finder finder(weight.dtype, sizeof(Bits));
  size_t end = group;  // of the group
  const bool are_few = for_each_kept(weight.mask, [&](size_t i) {
    for (; i >= end; end += group) {
      finder.end_group();
      if (finder.is_hopeless()) return false;
    }
    return finder.add(load_little_endian<Bits>(dense.data() + i * sizeof(Bits)));
  });
  if (!are_few) return;
  const auto numel = static_cast<size_t>(weight.mask.size());
  for (; end < numel + group; end += group) finder.end_group();
  if (finder.bytes() >= most) return;
  most = finder.bytes();
  std::move(finder).finish(weight);
  weight.group = group < numel ? static_cast<int64_t>(group) : 0;
}

// Rows of dim 0, then what divides them and people use.
std::vector<size_t> candidate_groups(const Weight& weight) {
  constexpr size_t kLargest = 512, kSmallest = 16;
  if (weight.shape.size() < 2 || weight.mask.size() == 0) return {};
  const auto row = static_cast<size_t>(weight.mask.size() / weight.shape[0]);
  std::vector<size_t> groups;
  if (weight.shape[0] > 1) groups.push_back(row);
  for (size_t group = kLargest; group >= kSmallest; group /= 2) {
    if (group < row && row % group == 0) groups.push_back(group);
  }
  return groups;
}

template <class Bits>
bool find(Weight& weight, std::span<const std::byte> dense) {
  size_t most = static_cast<size_t>(weight.mask.kept()) * sizeof(Bits);
  if (most == 0) return false;
  try_group<Bits>(weight, dense, static_cast<size_t>(weight.mask.size()), most);
  if (weight.is_shared()) return true;  // few in all are few everywhere
  for (const size_t group : candidate_groups(weight)) try_group<Bits>(weight, dense, group, most);
  return weight.is_shared();
}

}  // namespace

bool may_be_shared(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

uint32_t bits_of(DType dtype, float value) {
  if (dtype == DType::kFloat16) return float16_from_float(value);
  if (dtype == DType::kBFloat16) return bfloat16_from_float(value);
  return std::bit_cast<uint32_t>(value);
}

float value_of(DType dtype, uint32_t bits) {
  if (dtype == DType::kFloat16) return float_from_float16(static_cast<uint16_t>(bits));
  if (dtype == DType::kBFloat16) return float_from_bfloat16(static_cast<uint16_t>(bits));
  return std::bit_cast<float>(bits);
}

bool is_before(float a, float b) {
  return a < b || (a == b && std::signbit(a) && !std::signbit(b));
}

std::optional<std::string> codebook_problem(DType dtype, std::span<const float> entries,
                                            bool may_repeat) {
  bool has_repeated = false;
  for (size_t i = 0; i < entries.size(); ++i) {
    const float entry = entries[i];
    const auto bits = std::bit_cast<uint32_t>(entry);
    const bool repeats = i > 0 && bits == std::bit_cast<uint32_t>(entries[i - 1]);
    has_repeated |= repeats;
    const bool ascends = i == 0 || (!has_repeated && is_before(entries[i - 1], entry));
    if (std::isnan(entry) || !(ascends || (repeats && may_repeat))) {
      return text("ascending, got ", entry, " at ", i);
    }
    if (std::bit_cast<uint32_t>(value_of(dtype, bits_of(dtype, entry))) != bits) {
      return text("of ", dtype_name(dtype), " values, got ", entry, " at ", i);
    }
  }
  return std::nullopt;
}

bool find_codebooks(Weight& weight, std::span<const std::byte> dense) {
  return item_size(weight.dtype) == 2 ? find<uint16_t>(weight, dense)
                                      : find<uint32_t>(weight, dense);
}

std::optional<Weight> with_codebook(const Weight& plain) {
  if (!may_be_shared(plain.dtype) || plain.values.empty()) return std::nullopt;
  const auto item = static_cast<size_t>(item_size(plain.dtype));
  Finder finder(plain.dtype, item);
  for (size_t at = 0; at < plain.values.size(); at += item) {
    const std::byte* from = plain.values.data() + at;
    const uint32_t bits =
        item == 2 ? load_little_endian<uint16_t>(from) : load_little_endian<uint32_t>(from);
    if (!finder.add(bits)) return std::nullopt;
  }
  finder.end_group();
  Weight shared{.name = plain.name, .dtype = plain.dtype, .shape = plain.shape, .mask = plain.mask};
  std::move(finder).finish(shared);
  return shared;
}

}  // namespace pomona
