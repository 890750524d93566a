#pragma once
// Unsigned integers in bytes, least significant byte first, at any alignment. The tensors of a file
// are copied as they lie in memory, so Pomona needs a little-endian machine.

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace pomona {

static_assert(std::endian::native == std::endian::little, "pomona needs a little-endian machine");

// REQUIRES: sizeof(Unsigned) bytes at `bytes`.
template <std::unsigned_integral Unsigned>
Unsigned load_little_endian(const std::byte* bytes) {
  Unsigned value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

template <std::unsigned_integral Unsigned>
void append_little_endian(std::vector<std::byte>& bytes, Unsigned value) {
  // Byte by byte: GCC 12 sees overflows that are not there in a resize and a copy.
  for (size_t i = 0; i < sizeof value; ++i) {
    bytes.push_back(static_cast<std::byte>(static_cast<uint64_t>(value) >> (8 * i)));
  }
}

}  // namespace pomona
