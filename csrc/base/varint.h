#pragma once
// LEB128: seven bits a byte, lowest first, the high bit set in all bytes but the last. Values are
// below 2^63, so nine bytes are enough.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace pomona {

// REQUIRES: value < 2^63.
inline void append_varint(std::vector<std::byte>& bytes, uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<std::byte>(value | 0x80));
  bytes.push_back(static_cast<std::byte>(value));
}

// Reads at `position` and moves it past; nothing when the bytes end first or the value is too
// large.
inline std::optional<uint64_t> read_varint(std::span<const std::byte> bytes, size_t& position) {
  constexpr int kMostBits = 63;
  uint64_t value = 0;
  size_t at = position;
  for (int shift = 0; shift < kMostBits && at < bytes.size(); shift += 7) {
    const auto byte = static_cast<uint64_t>(bytes[at++]);
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) {
      position = at;
      return value;
    }
  }
  return std::nullopt;
}

}  // namespace pomona
