#pragma once
// Sparse-matrix read: one entry a cycle out of a line of them; the memory is read only when the
// line changes, so two short columns in one line cost one read. Source: EIE §IV.

#include <cstddef>
#include <cstdint>
#include <span>

namespace pomona::eie {

class MatrixRead {
 public:
  struct Entry {
    uint8_t code, gap;
  };

  // Codes and gaps of a tile's entries; they must outlive this object.
  MatrixRead(std::span<const uint8_t> codes, std::span<const uint8_t> gaps,
             int64_t entries_per_line)
      : codes_(codes), gaps_(gaps), entries_per_line_(entries_per_line) {}

  Entry read(int64_t entry) {
    if (entry < line_begin_ || entry >= line_begin_ + entries_per_line_) {
      line_begin_ = entry / entries_per_line_ * entries_per_line_;
      ++reads_;
    }
    return {codes_[static_cast<size_t>(entry)], gaps_[static_cast<size_t>(entry)]};
  }
  int64_t reads() const { return reads_; }

 private:
  std::span<const uint8_t> codes_, gaps_;
  int64_t entries_per_line_;
  int64_t line_begin_ = INT64_MIN / 2;  // no line yet
  int64_t reads_ = 0;
};

}  // namespace pomona::eie
