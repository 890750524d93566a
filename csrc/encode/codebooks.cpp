#include "encode/codebooks.h"

#include "pomona/error.h"

#include "base/float16.h"
#include "base/little_endian.h"
#include "base/text.h"
#include "base/varint.h"
#include "encode/planes.h"
#include "format/find_codebooks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace pomona {
namespace {

constexpr size_t kMostExpansion = 4096;  // of entries in planes, so that their size is believable
constexpr int64_t kMostSteps = 4096;     // of a progression: its bits are 512 bytes at most

[[noreturn]] void refuse(uint64_t offset, const std::string& what) {
  throw CorruptFile("codebook", offset, "expected " + what);
}

bool is_same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

// Entries as integers times one power of two, the largest there is.
struct Integers {
  int exponent = 0;
  std::vector<int64_t> values{};
};

// The exponent of the lowest bit that is set. REQUIRES: value is finite and not 0.
int lowest_exponent(float value) {
  int exponent = 0;
  const float fraction = std::frexp(value, &exponent);  // [0.5, 1)
  constexpr int kBits = std::numeric_limits<float>::digits;
  const auto integer = static_cast<uint32_t>(std::abs(std::ldexp(fraction, kBits)));
  return exponent - kBits + std::countr_zero(integer);
}

// Nothing where there are -0.0, infinities or numbers too far apart.
std::optional<Integers> as_integers(std::span<const float> entries) {
  Integers integers{.exponent = std::numeric_limits<int>::max()};
  float largest = 0;
  for (const float entry : entries) {
    if (!std::isfinite(entry) || is_same(entry, -0.0f)) return std::nullopt;
    if (entry == 0) continue;
    integers.exponent = std::min(integers.exponent, lowest_exponent(entry));
    largest = std::max(largest, std::abs(entry));
  }
  if (largest == 0) integers.exponent = 0;
  constexpr int kMostBits = 40;
  if (integers.exponent < std::numeric_limits<int8_t>::min() ||
      (largest > 0 && std::ilogb(largest) - integers.exponent > kMostBits)) {
    return std::nullopt;
  }
  for (const float entry : entries) {
    integers.values.push_back(
        static_cast<int64_t>(std::ldexp(static_cast<double>(entry), -integers.exponent)));
  }
  return integers;
}

float number_of(int64_t integer, int exponent) {
  return static_cast<float>(std::ldexp(static_cast<double>(integer), exponent));
}

uint64_t zigzag(int64_t value) {
  return value >= 0 ? 2 * static_cast<uint64_t>(value)
                    : 2 * static_cast<uint64_t>(-(value + 1)) + 1;
}

int64_t unzigzag(uint64_t value) {
  const auto half = static_cast<int64_t>(value / 2);
  return value % 2 == 0 ? half : -half - 1;
}

std::optional<Bytes> in_dtype(std::span<const float> entries, DType dtype) {
  Bytes bytes;
  for (const float entry : entries) {
    const uint32_t bits = bits_of(dtype, entry);
    if (!is_same(value_of(dtype, bits), entry)) return std::nullopt;
    if (item_size(dtype) == 2) {
      append_little_endian(bytes, static_cast<uint16_t>(bits));
    } else {
      append_little_endian(bytes, bits);
    }
  }
  return bytes;
}

std::optional<Bytes> in_fixed16(std::span<const float> entries) {
  const auto integers = as_integers(entries);
  if (!integers) return std::nullopt;
  Bytes bytes{static_cast<std::byte>(integers->exponent)};
  for (const int64_t value : integers->values) {
    if (value < std::numeric_limits<int16_t>::min() || value > std::numeric_limits<int16_t>::max())
      return std::nullopt;
    append_little_endian(bytes, static_cast<uint16_t>(value));
  }
  return bytes;
}

// exponent, first, steps beside the entries, and where there are such a bit for each step.
std::optional<Bytes> in_progression(std::span<const float> entries) {
  const auto integers = as_integers(entries);
  if (!integers) return std::nullopt;
  const int64_t first = integers->values.front();
  const int64_t steps = integers->values.back() - first + 1;
  if (steps > kMostSteps) return std::nullopt;
  Bytes bytes{static_cast<std::byte>(integers->exponent)};
  append_varint(bytes, zigzag(first));
  append_varint(bytes, static_cast<uint64_t>(steps) - entries.size());
  if (static_cast<size_t>(steps) == entries.size()) return bytes;
  Bytes taken((static_cast<size_t>(steps) + 7) / 8);
  for (const int64_t value : integers->values) {
    const auto step = static_cast<size_t>(value - first);
    taken[step / 8] |= std::byte{1} << (step % 8);
  }
  append(bytes, taken);
  return bytes;
}

// Of many codebooks: their entries as plain values of the dtype.
Bytes in_planes(const Weight& weight, const Coding& coding) {
  const Bytes raw = *in_dtype(weight.codebook, weight.dtype);
  const auto entries = static_cast<int64_t>(weight.codebook.size());
  const FileEntry entry{.dtype = weight.dtype, .numel = -1};  // no distances
  const std::vector<Chunk> chunks{{.size = entries, .kept = entries}};
  const CodedValues coded = encode_values(raw, entry, chunks, coding);
  if (coded.form != ValueForm::kPlanes) return raw;
  Bytes bytes = coded.part.table;
  append(bytes, coded.part.pieces[0]);
  return raw.size() / kMostExpansion > bytes.size() ? raw : bytes;
}

std::vector<float> from_dtype(std::span<const std::byte> bytes, DType dtype) {
  std::vector<float> entries;
  const auto item = static_cast<size_t>(item_size(dtype));
  for (size_t at = 0; at < bytes.size(); at += item) {
    const std::byte* from = bytes.data() + at;
    entries.push_back(value_of(dtype, item == 2 ? load_little_endian<uint16_t>(from)
                                                : load_little_endian<uint32_t>(from)));
  }
  return entries;
}

std::vector<float> from_fixed16(std::span<const std::byte> bytes) {
  std::vector<float> entries;
  const auto exponent = static_cast<int8_t>(bytes[0]);
  for (size_t at = 1; at < bytes.size(); at += 2) {
    const auto integer = static_cast<int16_t>(load_little_endian<uint16_t>(bytes.data() + at));
    entries.push_back(number_of(integer, exponent));
  }
  return entries;
}

std::vector<float> from_progression(std::span<const std::byte> bytes, size_t count) {
  if (bytes.empty()) refuse(0, "an exponent, got nothing");
  const auto exponent = static_cast<int8_t>(bytes[0]);
  size_t at = 1;
  const auto first = read_varint(bytes, at);
  const auto left_out = read_varint(bytes, at);
  constexpr uint64_t kFarthest = uint64_t{1} << 42;  // exact in a double, with room for steps
  if (!first || !left_out || *first > kFarthest ||
      *left_out > static_cast<uint64_t>(kMostSteps) - count) {
    refuse(at, "a first number and how many are left out, got others");
  }
  const size_t steps = count + *left_out;
  const size_t mask_size = *left_out == 0 ? 0 : (steps + 7) / 8;
  if (bytes.size() - at != mask_size) {
    refuse(at, text(mask_size, " bytes that say which are taken, got ", bytes.size() - at));
  }
  std::vector<float> entries;
  for (size_t step = 0; step < 8 * std::max<size_t>(mask_size, (steps + 7) / 8); ++step) {
    const bool is_taken =
        mask_size == 0 ? step < steps
                       : (static_cast<unsigned>(bytes[at + step / 8]) >> (step % 8) & 1) != 0;
    if (!is_taken) continue;
    entries.push_back(number_of(unzigzag(*first) + static_cast<int64_t>(step), exponent));
    if (step >= steps) refuse(bytes.size() - 1, "zero bits after the last number, got others");
  }
  if (entries.size() != count) refuse(at, text(count, " numbers, got ", entries.size()));
  return entries;
}

std::vector<float> from_planes(std::span<const std::byte> bytes, DType dtype, int64_t count) {
  const auto size = static_cast<size_t>(count * item_size(dtype));
  if (size / kMostExpansion > bytes.size()) {
    refuse(0, text("bytes for ", count, " entries, got ", bytes.size()));
  }
  const ValuesDecoder decoder(dtype, ValueForm::kPlanes, 0, bytes);
  Bytes values(size);
  decoder.decode(bytes.subspan(decoder.table_size()), values);
  return from_dtype(values, dtype);
}

}  // namespace

CodedCodebooks encode_codebooks(const Weight& weight, const Coding& coding) {
  CodedCodebooks best{CodebookForm::kDType, *in_dtype(weight.codebook, weight.dtype)};
  const auto take_smaller = [&](CodebookForm form, std::optional<Bytes> bytes) {
    if (bytes && bytes->size() < best.bytes.size()) best = {form, std::move(*bytes)};
  };
  if (weight.dtype == DType::kFloat32) {
    take_smaller(CodebookForm::kBFloat16, in_dtype(weight.codebook, DType::kBFloat16));
    take_smaller(CodebookForm::kFloat16, in_dtype(weight.codebook, DType::kFloat16));
    take_smaller(CodebookForm::kFixed16, in_fixed16(weight.codebook));
  }
  if (weight.group == 0) {
    take_smaller(CodebookForm::kProgression, in_progression(weight.codebook));
  } else {
    take_smaller(CodebookForm::kPlanes, in_planes(weight, coding));
  }
  return best;
}

std::optional<uint64_t> fixed_codebook_size(CodebookForm form, DType dtype, int64_t entries) {
  const auto count = static_cast<uint64_t>(entries);
  switch (form) {
    case CodebookForm::kDType:
      return count * static_cast<uint64_t>(item_size(dtype));
    case CodebookForm::kBFloat16:
    case CodebookForm::kFloat16:
      return 2 * count;
    case CodebookForm::kFixed16:
      return 1 + 2 * count;
    default:
      return std::nullopt;
  }
}

std::vector<float> decode_codebooks(CodebookForm form, DType dtype, int64_t entries,
                                    std::span<const std::byte> bytes) {
  switch (form) {
    case CodebookForm::kDType:
      return from_dtype(bytes, dtype);
    case CodebookForm::kBFloat16:
      return from_dtype(bytes, DType::kBFloat16);
    case CodebookForm::kFloat16:
      return from_dtype(bytes, DType::kFloat16);
    case CodebookForm::kFixed16:
      return from_fixed16(bytes);
    case CodebookForm::kProgression:
      return from_progression(bytes, static_cast<size_t>(entries));
    case CodebookForm::kPlanes:
      return from_planes(bytes, dtype, entries);
  }
  return {};
}

}  // namespace pomona
