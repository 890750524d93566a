#pragma once
// Pointer read: two single-ported banks, one of even and one of odd columns, so that the pointers
// of a column's begin and end, p[j] and p[j + 1], come in one cycle. Source: EIE §IV.

#include <cstddef>
#include <cstdint>
#include <span>

namespace pomona::eie {

class PointerRead {
 public:
  struct Range {
    int64_t begin, end;  // entries, counted from the first of the tile
  };

  // `pointers` of the columns of a tile and one more; they must outlive this object.
  explicit PointerRead(std::span<const int64_t> pointers) : pointers_(pointers) {}

  Range read(int64_t column) {
    ++reads_;
    const auto j = static_cast<size_t>(column);
    return {pointers_[j] - pointers_[0], pointers_[j + 1] - pointers_[0]};
  }
  int64_t reads() const { return reads_; }

 private:
  std::span<const int64_t> pointers_;
  int64_t reads_ = 0;
};

}  // namespace pomona::eie
