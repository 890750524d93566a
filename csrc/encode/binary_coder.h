#pragma once
// An adaptive binary arithmetic coder: decisions and their probabilities in, bytes out. 32-bit
// interval, no carries, exact integers. Source: docs/format.md, "Binary decisions".

#include "pomona/error.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// What both ends know of the number: it lies in [low, high].
class Interval {
 protected:
  // The part that belongs to a 1, whose probability is p / 2^16. REQUIRES: 0 < p < 2^16.
  uint32_t middle(uint32_t p) const {
    return low_ + static_cast<uint32_t>((uint64_t{high_ - low_} * p) >> 16);
  }
  void narrow(bool bit, uint32_t middle) {
    if (bit) {
      high_ = middle;
    } else {
      low_ = middle + 1;
    }
  }
  bool has_settled_byte() const { return ((low_ ^ high_) >> 24) == 0; }
  void shift() {
    low_ <<= 8;
    high_ = high_ << 8 | 0xff;
  }
  // The shortest bytes that, followed by zeros, lie in the interval.
  struct Ending {
    uint32_t value;
    int bytes;
  };
  Ending ending() const {
    for (int bytes = 0; bytes < 4; ++bytes) {
      const auto rest = static_cast<uint32_t>((uint64_t{1} << (32 - 8 * bytes)) - 1);
      const uint64_t value = (uint64_t{low_} + rest) & ~uint64_t{rest};
      if (value <= high_) return {static_cast<uint32_t>(value), bytes};
    }
    return {low_, 4};
  }

  uint32_t low_ = 0;
  uint32_t high_ = 0xffffffff;
};

class BinaryEncoder : Interval {
 public:
  // Codes a bit whose probability of being 1 is p / 2^16, and returns it.
  bool code(bool bit, uint32_t p) {
    narrow(bit, middle(p));
    while (has_settled_byte()) {
      bytes_.push_back(static_cast<std::byte>(low_ >> 24));
      shift();
    }
    return bit;
  }
  std::vector<std::byte> finish() && {
    const auto [value, count] = ending();
    for (int i = 0; i < count; ++i) {
      bytes_.push_back(static_cast<std::byte>(value >> (24 - 8 * i)));
    }
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
};

// Past its bytes a decoder reads zeros; finish() says whether they were what the encoder wrote.
class BinaryDecoder : Interval {
 public:
  explicit BinaryDecoder(std::span<const std::byte> bytes) : bytes_(bytes) {
    for (int i = 0; i < 4; ++i) number_ = number_ << 8 | next();
  }
  // The bit; the first argument is for the encoder.
  bool code(bool, uint32_t p) {
    const uint32_t m = middle(p);
    const bool bit = number_ <= m;
    narrow(bit, m);
    while (has_settled_byte()) {
      shift();
      number_ = number_ << 8 | next();
      ++settled_;
    }
    return bit;
  }
  // Throws CorruptFile (section "symbol stream") unless the bytes end as the encoder ends them.
  void finish() const {
    const auto [value, count] = ending();
    if (number_ != value || bytes_.size() != settled_ + static_cast<size_t>(count)) {
      throw CorruptFile("symbol stream", bytes_.size(),
                        "expected the bytes that its decisions take, got others");
    }
  }

 private:
  uint32_t next() { return at_ < bytes_.size() ? static_cast<uint32_t>(bytes_[at_++]) : 0; }

  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  uint64_t settled_ = 0;  // bytes that the encoder has written
  uint32_t number_ = 0;
};

}  // namespace pomona
