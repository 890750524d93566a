#include "pomona/weight.h"

#include "pomona/error.h"

#include "base/little_endian.h"
#include "base/text.h"
#include "format/find_codebooks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

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

template <class Bits>
void fill(Weight& weight, std::span<const std::byte> dense) {
  weight.mask = nonzero_mask<Bits>(dense);
  if constexpr (sizeof(Bits) == 2 || sizeof(Bits) == 4) {
    if (may_be_shared(weight.dtype) && find_codebooks(weight, dense)) return;
  }
  weight.values.resize(static_cast<size_t>(weight.mask.kept()) * sizeof(Bits));
  std::byte* at = weight.values.data();
  for_each_kept(weight.mask, [&](size_t i) {
    std::memcpy(at, dense.data() + i * sizeof(Bits), sizeof(Bits));
    at += sizeof(Bits);
  });
}

template <class Bits>
void expand(const Weight& weight, std::span<std::byte> dense) {
  if (!dense.empty()) std::memset(dense.data(), 0, dense.size());
  const auto put = [&](size_t i, const std::byte* from) {
    std::memcpy(dense.data() + i * sizeof(Bits), from, sizeof(Bits));
  };
  if (weight.is_shared()) {
    std::vector<std::byte> entries;
    for (const float entry : weight.codebook) {
      append_little_endian(entries, static_cast<Bits>(bits_of(weight.dtype, entry)));
    }
    const auto centroids = static_cast<size_t>(weight.centroids());
    const size_t group = static_cast<size_t>(weight.group != 0 ? weight.group : weight.mask.size());
    auto code = weight.codes.begin();
    for_each_kept(weight.mask, [&](size_t i) {
      put(i, entries.data() + (i / group * centroids + *code++) * sizeof(Bits));
    });
  } else {
    const std::byte* value = weight.values.data();
    for_each_kept(weight.mask, [&](size_t i) {
      const std::byte* from = value;
      value += sizeof(Bits);
      put(i, from);
    });
  }
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

void check_codebooks(const Weight& weight) {
  if (!may_be_shared(weight.dtype)) {
    refuse(weight, text("`dtype` float32, float16 or bfloat16 beside a codebook, got ",
                        dtype_name(weight.dtype)));
  }
  const auto entries = static_cast<int64_t>(weight.codebook.size());
  if (entries % weight.groups() != 0 || weight.centroids() > kMaxCentroids) {
    refuse(weight, text("`codebook` of ", weight.groups(), " times at most ", kMaxCentroids,
                        " entries, got ", entries));
  }
  const auto centroids = static_cast<size_t>(weight.centroids());
  for (size_t at = 0; at < weight.codebook.size(); at += centroids) {
    const auto problem = codebook_problem(
        weight.dtype, std::span(weight.codebook).subspan(at, centroids), weight.group != 0);
    if (problem) refuse(weight, "`codebook` " + *problem);
  }
}

void check_shared(const Weight& weight, int64_t kept) {
  check_codebooks(weight);
  if (static_cast<int64_t>(weight.codes.size()) != kept) {
    refuse(weight, text("one code for each of ", kept, " kept weights, got ", weight.codes.size()));
  }
  const auto highest = std::ranges::max_element(weight.codes);
  if (highest != weight.codes.end() && *highest >= weight.centroids()) {
    refuse(weight, text("`codes` below ", weight.centroids(), ", got ", int{*highest}, " at ",
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

int64_t Weight::groups() const {
  return group == 0 ? 1 : (numel() + group - 1) / group;
}

int64_t Weight::centroids() const {
  return static_cast<int64_t>(codebook.size()) / std::max<int64_t>(groups(), 1);
}

void Weight::check() const {
  const int64_t item = item_size(dtype);
  if (group < 0 || (group > 0 && (!is_shared() || group >= numel()))) {
    refuse(*this, text("`group` of 0, or in 1..", numel() - 1, " beside codebooks, got ", group));
  }
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
  std::vector<std::byte> dense(static_cast<size_t>(numel() * item_size(dtype)));
  to_dense(dense);
  return dense;
}

void Weight::to_dense(std::span<std::byte> dense) const {
  check();
  if (static_cast<int64_t>(dense.size()) != numel() * item_size(dtype)) {
    refuse(*this,
           text("`dense` of ", numel(), " times ", item_size(dtype), " bytes, got ", dense.size()));
  }
  with_bits(dtype, [&](auto bits) { expand<decltype(bits)>(*this, dense); });
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
