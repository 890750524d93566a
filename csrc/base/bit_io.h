#pragma once
// Bits in bytes, least significant bit first (docs/format.md): the first bit written is bit 0 of
// byte 0. Writer and reader mirror each other; both hold up to 64 bits in a register.

#include "base/little_endian.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

class BitWriter {
 public:
  // Appends the low `count` bits of `bits`, lowest first. REQUIRES: 0 <= count <= 32 and the bits
  // above are 0.
  void put(uint64_t bits, int count) {
    buffer_ |= bits << held_;
    held_ += count;
    if (held_ >= 32) {
      append_little_endian(bytes_, static_cast<uint32_t>(buffer_));
      buffer_ >>= 32;
      held_ -= 32;
    }
  }

  // Elias gamma: m = floor(log2 x) zero bits, a one bit, the m low bits of x. REQUIRES: 1 <= x <
  // 2^16.
  void put_gamma(uint64_t x) {
    const int m = static_cast<int>(std::bit_width(x)) - 1;
    const uint64_t low = x & ((uint64_t{1} << m) - 1);
    put(((low << 1) | 1) << m, 2 * m + 1);
  }

  void reserve(size_t bytes) { bytes_.reserve(bytes); }

  // Pads the last byte with zero bits and gives the bytes away.
  std::vector<std::byte> finish() && {
    for (; held_ > 0; held_ -= 8, buffer_ >>= 8) bytes_.push_back(static_cast<std::byte>(buffer_));
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
  uint64_t buffer_ = 0;  // bits not yet in bytes_, the first in bit 0
  int held_ = 0;         // how many; below 32 between calls
};

// Past the end of its bytes a reader gives zeros and remembers: check is_overrun() when done. The
// bytes must outlive it.
class BitReader {
 public:
  explicit BitReader(std::span<const std::byte> bytes)
      : begin_(bytes.data()), at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  // After this, 56 bits or more can be peeked at and skipped.
  void refill() {
    if (end_ - at_ >= 8) {
      // Bytes that only partly fit are loaded again next time: the same bits to the same place.
      buffer_ |= load_little_endian<uint64_t>(at_) << held_;
      at_ += (63 - held_) >> 3;
      held_ |= 56;
    } else {
      refill_near_the_end();
    }
  }
  // REQUIRES: count bits are held since the last refill(); 0 <= count <= 56.
  uint64_t peek(int count) const { return buffer_ & ((uint64_t{1} << count) - 1); }
  void skip(int count) {
    buffer_ >>= count;
    held_ -= count;
  }

  // The next `count` bits, 0 <= count <= 56.
  uint64_t get(int count) {
    refill();
    const uint64_t bits = peek(count);
    skip(count);
    return bits;
  }

  // Elias gamma; 0, which put_gamma cannot write, when it is not below 2^16.
  uint64_t get_gamma() {
    refill();
    const int m = std::countr_zero(buffer_ | (uint64_t{1} << 16));
    if (m == 16) return 0;
    skip(m + 1);
    const uint64_t low = peek(m);
    skip(m);
    return (uint64_t{1} << m) | low;
  }

  // Bits taken so far.
  uint64_t position_bits() const {
    return 8 * (static_cast<uint64_t>(at_ - begin_) + made_up_bytes_) -
           static_cast<uint64_t>(held_);
  }
  bool is_overrun() const { return position_bits() > 8 * static_cast<uint64_t>(end_ - begin_); }
  // All bytes were used, and the bits left over in the last one are 0.
  bool is_at_end() const {
    const uint64_t size_bits = 8 * static_cast<uint64_t>(end_ - begin_);
    const uint64_t left = size_bits - std::min(size_bits, position_bits());
    if (is_overrun() || left >= 8) return false;
    return left == 0 || static_cast<uint64_t>(end_[-1]) >> (8 - left) == 0;
  }

 private:
  void refill_near_the_end() {
    for (; held_ < 56; held_ += 8) {
      if (at_ < end_) {
        buffer_ |= static_cast<uint64_t>(*at_++) << held_;
      } else {
        ++made_up_bytes_;
      }
    }
  }

  const std::byte* begin_;
  const std::byte* at_;
  const std::byte* end_;
  uint64_t buffer_ = 0;  // the next bit in bit 0; zeros beyond the end
  int held_ = 0;         // bits of buffer_ that count as read from the bytes
  uint64_t made_up_bytes_ = 0;
};

}  // namespace pomona
