#pragma once
// A text of some cycles: a row is a PE (the first one is the central control), a column a cycle.

#include "base/text.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace pomona::eie {

class Trace {
 public:
  // Of the cycles `first` to `last`; of none when last < first.
  Trace(int64_t pes, int64_t first, int64_t last)
      : first_(first), last_(last), rows_(static_cast<size_t>(last < first ? 0 : pes + 1)) {}

  bool is_open(int64_t clock) const { return clock >= first_ && clock <= last_; }
  // What the central control (row 0) or PE row - 1 did in the cycle that is being written.
  void write(size_t row, char did) { rows_[row] += did; }
  std::string str() const {
    if (rows_.empty()) return {};
    const size_t width = text("PE ", rows_.size() - 2).size();
    const auto line = [width](std::string name, const std::string& row) {
      name.resize(width, ' ');
      return text(name, " |", row, "|\n");
    };
    std::string all =
        text("cycles ", first_, " to ", first_ + static_cast<int64_t>(rows_[0].size()) - 1, "\n");
    all += line("CCU", rows_[0]);
    for (size_t row = 1; row < rows_.size(); ++row) all += line(text("PE ", row - 1), rows_[row]);
    return all;
  }

 private:
  int64_t first_, last_;
  std::vector<std::string> rows_;
};

}  // namespace pomona::eie
