#include "pomona/packed_bits.h"

#include "pomona/error.h"

#include "base/text.h"

namespace pomona {

int64_t packed_size(int64_t count, int bits) {
  if (bits != 1 && bits != 2 && bits != 4 && bits != 8) {
    throw InvalidArgument(text("packed bits: expected `bits` to be 1, 2, 4 or 8, got ", bits, "."));
  }
  return (count * bits + 7) / 8;
}

int storage_bits(int64_t k) {
  if (k < 1 || k > 256) {
    throw InvalidArgument(text("packed bits: expected `k` in 1..256, got ", k, "."));
  }
  return k <= 2 ? 1 : k <= 4 ? 2 : k <= 16 ? 4 : 8;
}

std::vector<uint8_t> pack_bits(std::span<const uint8_t> codes, int bits) {
  std::vector<uint8_t> packed(
      static_cast<size_t>(packed_size(static_cast<int64_t>(codes.size()), bits)));
  for (size_t i = 0; i < codes.size(); ++i) {
    if (codes[i] >> bits != 0) {
      throw InvalidArgument(text("pack_bits: expected codes below ", 1 << bits, ", got ",
                                 int{codes[i]}, " at ", i, "."));
    }
    const size_t bit = i * static_cast<size_t>(bits);
    packed[bit / 8] = static_cast<uint8_t>(packed[bit / 8] | (codes[i] << (bit % 8)));
  }
  return packed;
}

std::vector<uint8_t> unpack_bits(std::span<const uint8_t> packed, int64_t count, int bits) {
  if (static_cast<int64_t>(packed.size()) != packed_size(count, bits)) {
    throw InvalidArgument(text("unpack_bits: expected ", packed_size(count, bits), " bytes for ",
                               count, " codes of ", bits, " bits, got ", packed.size(), "."));
  }
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  const auto low_bits = static_cast<uint8_t>((1 << bits) - 1);
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t bit = i * static_cast<size_t>(bits);
    codes[i] = static_cast<uint8_t>((packed[bit / 8] >> (bit % 8)) & low_bits);
  }
  return codes;
}

}  // namespace pomona
