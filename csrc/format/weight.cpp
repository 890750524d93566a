#include "pomona/weight.h"

#include "pomona/error.h"

#include "base/float16.h"
#include "base/little_endian.h"
#include "base/text.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

namespace pomona {
namespace {

constexpr int64_t kMaxCentroids = 256;  // a code is one byte

struct DTypeRow {
  std::string_view name;
  int64_t item_size;
  bool is_floating;
};

constexpr std::array<DTypeRow, kDTypeCount> kDTypes{{
    {"float32", 4, true},
    {"float16", 2, true},
    {"bfloat16", 2, true},
    {"float64", 8, true},
    {"uint8", 1, false},
    {"int8", 1, false},
    {"int16", 2, false},
    {"int32", 4, false},
    {"int64", 8, false},
    {"bool", 1, false},
}};

const DTypeRow& row_of(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  if (index >= kDTypes.size()) {
    throw InvalidArgument(
        text("weight: expected `dtype` below ", kDTypeCount, ", got ", index, "."));
  }
  return kDTypes[index];
}

[[noreturn]] void refuse(const Weight& weight, const std::string& what) {
  throw InvalidArgument(text("weight '", weight.name, "': expected ", what, "."));
}

// A float for each bit pattern of the dtype and back; nothing for a dtype that has no codebooks.
float widen(DType dtype, uint32_t bits) {
  if (dtype == DType::kFloat16) return float_from_float16(static_cast<uint16_t>(bits));
  if (dtype == DType::kBFloat16) return float_from_bfloat16(static_cast<uint16_t>(bits));
  return std::bit_cast<float>(bits);
}

uint32_t narrow(DType dtype, float value) {
  if (dtype == DType::kFloat16) return float16_from_float(value);
  if (dtype == DType::kBFloat16) return bfloat16_from_float(value);
  return std::bit_cast<uint32_t>(value);
}

bool may_be_shared(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

bool comes_back(DType dtype, float value) {
  return std::bit_cast<uint32_t>(widen(dtype, narrow(dtype, value))) ==
         std::bit_cast<uint32_t>(value);
}

// -0.0 stands before 0.0; NaN stands nowhere.
bool is_before(float a, float b) {
  return a < b || (a == b && std::signbit(a) && !std::signbit(b));
}

template <class Bits>
Mask nonzero_mask(std::span<const std::byte> dense) {
  const size_t count = dense.size() / sizeof(Bits);
  std::vector<uint64_t> words((count + 63) / 64);
  for (size_t w = 0; w < words.size(); ++w) {
    const size_t in_word = std::min<size_t>(64, count - 64 * w);
    const std::byte* at = dense.data() + 64 * w * sizeof(Bits);
    for (size_t i = 0; i < in_word; ++i) {
      const bool is_kept = load_little_endian<Bits>(at + i * sizeof(Bits)) != 0;
      words[w] |= uint64_t{is_kept} << i;
    }
  }
  return Mask(static_cast<int64_t>(count), std::move(words));
}

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
      slots_[slot] = static_cast<uint16_t>(seen_.size());
    }
    return static_cast<uint8_t>(slots_[slot] - 1);
  }
  const std::vector<uint32_t>& seen() const { return seen_; }

 private:
  static constexpr int kSlotBits = 10;
  static constexpr size_t kSlots = size_t{1} << kSlotBits;
  std::array<uint16_t, kSlots> slots_{};  // number + 1; 0 is free
  std::vector<uint32_t> seen_;
};

// Bytes of a codebook and of codes in fixed width beside bytes of plain values: what the file would
// take at most.
bool is_smaller_shared(int64_t kept, int64_t centroids, int64_t item) {
  const auto bits = static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(centroids - 1)));
  return centroids * item + (kept * bits + 7) / 8 < kept * item;
}

// Turns numbers by first sight into codes of an ascending codebook.
void set_codebook(Weight& weight, std::span<const float> by_number) {
  std::vector<uint8_t> order(by_number.size());
  std::iota(order.begin(), order.end(), uint8_t{0});
  std::ranges::sort(order,
                    [&](uint8_t a, uint8_t b) { return is_before(by_number[a], by_number[b]); });
  std::array<uint8_t, kMaxCentroids> code_of{};
  for (size_t code = 0; code < order.size(); ++code) {
    weight.codebook.push_back(by_number[order[code]]);
    code_of[order[code]] = static_cast<uint8_t>(code);
  }
  for (uint8_t& code : weight.codes) code = code_of[code];
}

// Fills codebook and codes and returns true, or leaves the weight as it was. A NaN has no place in
// an ascending codebook, so its tensor keeps its values.
template <class Bits>
bool try_to_share(Weight& weight, std::span<const std::byte> dense) {
  DistinctBits distinct;
  std::vector<uint8_t> numbers;
  const bool are_few = for_each_kept(weight.mask, [&](size_t i) {
    const auto bits = load_little_endian<Bits>(dense.data() + i * sizeof(Bits));
    const auto number = distinct.number_of(bits);
    if (number) numbers.push_back(*number);
    return number.has_value();
  });
  if (!are_few) return false;
  std::vector<float> by_number;
  for (const uint32_t bits : distinct.seen()) {
    by_number.push_back(widen(weight.dtype, bits));
    if (std::isnan(by_number.back())) return false;
  }
  const auto centroids = static_cast<int64_t>(by_number.size());
  const auto kept = static_cast<int64_t>(numbers.size());
  if (kept == 0 || !is_smaller_shared(kept, centroids, sizeof(Bits))) return false;
  weight.codes = std::move(numbers);
  set_codebook(weight, by_number);
  return true;
}

template <class Bits>
void fill(Weight& weight, std::span<const std::byte> dense) {
  weight.mask = nonzero_mask<Bits>(dense);
  if constexpr (sizeof(Bits) == 2 || sizeof(Bits) == 4) {
    if (may_be_shared(weight.dtype) && try_to_share<Bits>(weight, dense)) return;
  }
  weight.values.resize(static_cast<size_t>(weight.mask.kept()) * sizeof(Bits));
  std::byte* at = weight.values.data();
  for_each_kept(weight.mask, [&](size_t i) {
    std::memcpy(at, dense.data() + i * sizeof(Bits), sizeof(Bits));
    at += sizeof(Bits);
  });
}

template <class Bits>
std::vector<std::byte> expand(const Weight& weight) {
  std::vector<std::byte> dense(static_cast<size_t>(weight.mask.size()) * sizeof(Bits));
  const auto put = [&](size_t i, const std::byte* from) {
    std::memcpy(dense.data() + i * sizeof(Bits), from, sizeof(Bits));
  };
  if (weight.is_shared()) {
    std::vector<std::byte> centroids;
    for (const float entry : weight.codebook) {
      append_little_endian(centroids, static_cast<Bits>(narrow(weight.dtype, entry)));
    }
    auto code = weight.codes.begin();
    for_each_kept(weight.mask,
                  [&](size_t i) { put(i, centroids.data() + *code++ * sizeof(Bits)); });
  } else {
    const std::byte* value = weight.values.data();
    for_each_kept(weight.mask, [&](size_t i) {
      const std::byte* from = value;
      value += sizeof(Bits);
      put(i, from);
    });
  }
  return dense;
}

// visit(zero of the unsigned type as wide as an element).
template <class Visit>
auto with_bits(DType dtype, Visit visit) {
  switch (item_size(dtype)) {
    case 1:
      return visit(uint8_t{0});
    case 2:
      return visit(uint16_t{0});
    case 4:
      return visit(uint32_t{0});
    default:
      return visit(uint64_t{0});
  }
}

void check_shared(const Weight& weight, int64_t kept) {
  const auto centroids = weight.codebook.size();
  if (!may_be_shared(weight.dtype)) {
    refuse(weight, text("`dtype` float32, float16 or bfloat16 beside a codebook, got ",
                        dtype_name(weight.dtype)));
  }
  if (centroids > kMaxCentroids) {
    refuse(weight, text("`codebook` of at most ", kMaxCentroids, " entries, got ", centroids));
  }
  for (size_t i = 0; i < centroids; ++i) {
    const float entry = weight.codebook[i];
    if (std::isnan(entry) || (i > 0 && !is_before(weight.codebook[i - 1], entry))) {
      refuse(weight, text("`codebook` ascending, got ", entry, " at ", i));
    }
    if (!comes_back(weight.dtype, entry)) {
      refuse(weight,
             text("`codebook` of ", dtype_name(weight.dtype), " values, got ", entry, " at ", i));
    }
  }
  if (static_cast<int64_t>(weight.codes.size()) != kept) {
    refuse(weight, text("one code for each of ", kept, " kept weights, got ", weight.codes.size()));
  }
  const auto highest = std::ranges::max_element(weight.codes);
  if (highest != weight.codes.end() && *highest >= centroids) {
    refuse(weight, text("`codes` below ", centroids, ", got ", int{*highest}, " at ",
                        highest - weight.codes.begin()));
  }
  if (!weight.values.empty()) refuse(weight, "no `values` beside a codebook");
}

}  // namespace

int64_t item_size(DType dtype) {
  return row_of(dtype).item_size;
}

std::string_view dtype_name(DType dtype) {
  return row_of(dtype).name;
}

bool is_floating(DType dtype) {
  return row_of(dtype).is_floating;
}

int64_t Weight::numel() const {
  int64_t count = 1;
  bool is_empty = false, is_too_large = false;
  for (const int64_t size : shape) {
    if (size < 0) refuse(*this, text("`shape` of sizes of at least 0, got ", join(shape)));
    is_empty |= size == 0;
    is_too_large |= size > 0 && count > std::numeric_limits<int64_t>::max() / size;
    if (!is_empty && !is_too_large) count *= size;
  }
  if (is_empty) return 0;
  if (is_too_large) refuse(*this, text("`shape` of less than 2^63 elements, got ", join(shape)));
  return count;
}

void Weight::check() const {
  const int64_t item = item_size(dtype);
  if (mask.size() != numel()) {
    refuse(*this, text("`mask` of ", numel(), " bits, got ", mask.size()));
  }
  const int64_t kept = mask.kept();
  if (is_shared()) return check_shared(*this, kept);
  if (!codes.empty()) refuse(*this, "no `codes` without a codebook");
  if (static_cast<int64_t>(values.size()) != kept * item) {
    refuse(*this, text("`values` of ", kept, " times ", item, " bytes, got ", values.size()));
  }
}

std::vector<std::byte> Weight::to_dense() const {
  check();
  return with_bits(dtype, [&](auto bits) { return expand<decltype(bits)>(*this); });
}

Weight make_weight(std::string name, DType dtype, std::vector<int64_t> shape,
                   std::span<const std::byte> dense) {
  Weight weight{.name = std::move(name), .dtype = dtype, .shape = std::move(shape)};
  const auto item = static_cast<size_t>(item_size(dtype));
  const auto numel = static_cast<size_t>(weight.numel());
  if (dense.size() / item != numel || dense.size() % item != 0) {
    refuse(weight, text("`dense` of ", numel, " times ", item, " bytes, got ", dense.size()));
  }
  with_bits(dtype, [&](auto bits) { fill<decltype(bits)>(weight, dense); });
  return weight;
}

}  // namespace pomona
