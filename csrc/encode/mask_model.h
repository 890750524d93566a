#pragma once
// What the context coder of masks knows around a weight, and with what probability it takes it to
// be kept. Source: docs/format.md, "Masks". For context_mask.cpp alone: a header, so that encoder
// and decoder inline it.

#include "encode/context_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace pomona::mask_model {

inline constexpr int kBuckets = 12;          // of a density beside the mean
inline constexpr int kSteps = 24;            // of a gap
inline constexpr int64_t kReach = 4;         // how far one looks for weights nearby
inline constexpr int64_t kNone = -kReach;    // the place of a line that is not there
inline constexpr int64_t kPad = 2 * kReach;  // zeros before a row, so that one may look at kNone

// A matrix as it is coded: rows and columns without weights taken out, perhaps transposed.
struct Lines {
  std::vector<int64_t> rows, cols;  // which of the matrix
  // Of each line the place of the one a period before, among those here, or kNone: the pixel above,
  // or the same place in the window of the channel before. And the inverse.
  std::vector<int64_t> row_back, row_ahead, col_back, col_ahead;
  std::vector<bool> begins_run;  // of each column: the first of a window, or of a row of the image
  bool is_transposed = false;
  bool has_row_back = false;

  void transpose() {
    std::swap(rows, cols);
    std::swap(row_back, col_back);
    std::swap(row_ahead, col_ahead);
  }
};

// Of each line the place of the one `distance` before; kNone where that is not here.
inline std::vector<int64_t> lines_at(std::span<const int64_t> lines, int64_t distance) {
  std::vector<int64_t> places(lines.size(), kNone);
  if (distance == 0) return places;
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto found = std::ranges::lower_bound(lines, lines[i] - distance);
    if (found != lines.end() && *found == lines[i] - distance) places[i] = found - lines.begin();
  }
  return places;
}

inline size_t bucket_of(int x) {
  constexpr int kStep = 128;
  return static_cast<size_t>(std::clamp((x + kBuckets / 2 * kStep) / kStep, 0, kBuckets - 1));
}

// log2 of gap + 1, in steps of half.
inline size_t step_of(uint64_t gap) {
  const uint64_t x = gap + 1;
  const auto high = static_cast<size_t>(std::bit_width(x)) - 1;
  const size_t half = high > 0 ? (x >> (high - 1)) & 1 : 0;
  return std::min<size_t>(2 * high + half, kSteps - 1);
}

inline int clamped(int x) {
  return std::clamp(x, -1500, 1500);
}

// How many weights each column has kept, beside what a column of mean density would have: in itself
// and together with the columns near it in the row and in the image. Logarithms are kept, since few
// columns change with a row.
class Columns {
 public:
  struct Surplus {
    int quick, slow, nearby;
  };

  explicit Columns(const Lines& lines) : lines_(lines), columns_(lines.cols.size()) {
    for (size_t c = 0; c < columns_.size(); ++c) {
      for_each_near(c, [&](Column& near) { ++near.nearby_size; });
    }
    for (Column& column : columns_) column.take_logarithms();
  }

  void begin_row(uint64_t kept_before) {
    if (columns_.empty()) return;
    const uint64_t expected = (kept_before << 16) / columns_.size();
    log_quick_ = log256(expected + kQuick);
    log_slow_ = log256(expected + kSlow);
    for (size_t n = 0; n < log_nearby_.size(); ++n) {
      log_nearby_[n] = log256(n * expected + kNearby);
    }
  }
  Surplus surplus(size_t c) const {
    const Column& column = columns_[c];
    return {clamped(column.log_quick - log_quick_), clamped(column.log_slow - log_slow_),
            clamped(column.log_nearby - log_nearby_[column.nearby_size])};
  }
  void keep(size_t c) {
    ++columns_[c].kept;
    columns_[c].nearby += 2;
    columns_[c].take_logarithms();
    for_each_near(c, [](Column& near) {
      ++near.nearby;
      near.take_logarithms();
    });
  }

 private:
  // What a column has beforehand, of both, in units of 2^-16.
  static constexpr uint64_t kQuick = 5u << 14, kSlow = 9u << 15, kNearby = 26u << 16;
  static constexpr size_t kMostNear = 14;

  struct Column {
    uint32_t kept = 0;
    uint32_t nearby = 0;       // kept there, its own twice
    uint32_t nearby_size = 2;  // columns there, itself twice
    int log_quick = 0, log_slow = 0, log_nearby = 0;
    void take_logarithms() {
      log_quick = log256((uint64_t{kept} << 16) + kQuick);
      log_slow = log256((uint64_t{kept} << 16) + kSlow);
      log_nearby = log256((uint64_t{nearby} << 16) + kNearby);
    }
  };

  template <class Visit>
  void for_each_near(size_t c, Visit visit) {
    const auto size = static_cast<int64_t>(columns_.size());
    const auto visit_if = [&](int64_t place) {
      if (place >= 0 && place < size) visit(columns_[static_cast<size_t>(place)]);
    };
    const auto at = static_cast<int64_t>(c);
    for (const int64_t by : {-2, -1, 1, 2}) visit_if(at + by);
    for (const auto* beyond : {&lines_.col_back, &lines_.col_ahead}) {
      const int64_t place = (*beyond)[c];
      if (place == kNone) continue;
      for (const int64_t by : {-1, 0, 1}) visit_if(place + by);
      visit_if((*beyond)[static_cast<size_t>(place)]);
    }
  }

  const Lines& lines_;
  std::vector<Column> columns_;
  int log_quick_ = 0, log_slow_ = 0;
  std::array<int, kMostNear + 1> log_nearby_{};
};

// Weights that are kept, and how many would be by the densities of rows and columns (in units of
// 2^-16).
struct Tally {
  uint32_t kept = 0;
  uint32_t expected = 0;
  void operator+=(const Tally& other) {
    kept += other.kept;
    expected += other.expected;
  }
  void operator-=(const Tally& other) {
    kept -= other.kept;
    expected -= other.expected;
  }
};

// The weights that are coded, as far as the next ones look back.
class Past {
 public:
  explicit Past(const Lines& lines)
      : lines_(lines),
        width_(lines.cols.size()),
        row_(width_ + kPad),
        sums_(width_ + kPad + 1),
        above_(width_),
        all_(lines.has_row_back ? lines.rows.size() * width_ : 0) {}

  void begin_row(size_t row) {
    r_ = row;
    std::ranges::fill(row_, uint8_t{0});
  }
  void add(size_t c, bool kept, uint32_t expected) {
    const Tally tally{kept, expected};
    row_[c + kPad] = kept;
    sums_[c + kPad + 1] = sums_[c + kPad];
    sums_[c + kPad + 1] += tally;
    Column& above = above_[c];
    above.sum -= above.last[r_ % kReach];
    above.sum += tally;
    above.last[r_ % kReach] = tally;
    if (!all_.empty()) all_[r_ * width_ + c] = tally;
  }

  // Which of six weights are kept: those along the lines, and those in the window or the image.
  size_t lines_around(size_t c) const {
    const int64_t row = lines_.row_back[r_];
    const size_t back = row < 0 ? 0 : all_[static_cast<size_t>(row) * width_ + c].kept;
    return bit(lines_.col_back[c]) | back << 1 | above(c, 1) << 2 | left(c, 1) << 3 |
           left(c, 2) << 4 | above(c, 2) << 5;
  }
  size_t image_around(size_t c) const {
    const int64_t up = lines_.col_back[c];
    return left(c, 1) | left(c, 2) << 1 | bit(up) << 2 | bit(up - 1) << 3 | bit(up + 1) << 4 |
           bit(back(up)) << 5;
  }
  Tally nearby(size_t c) const {
    const auto at = static_cast<int64_t>(c);
    Tally tally = above_[c].sum;
    add_range(tally, at - 4, at);
    const int64_t up = lines_.col_back[c], two_up = back(up);
    add_range(tally, up - 3, std::min(up + 4, at));
    add_range(tally, two_up - 2, std::min(two_up + 3, at));
    const int64_t row = lines_.row_back[r_];
    if (row >= 0) {
      const int64_t end = std::min(row + 4, static_cast<int64_t>(r_));
      for (int64_t y = std::max<int64_t>(row - 3, 0); y < end; ++y) {
        tally += all_[static_cast<size_t>(y) * width_ + c];
      }
    }
    return tally;
  }

 private:
  struct Column {
    Tally sum;  // of `last`
    std::array<Tally, kReach> last{};
  };
  int64_t back(int64_t place) const {
    return place < 0 ? kNone : lines_.col_back[static_cast<size_t>(place)];
  }
  size_t bit(int64_t place) const { return row_[static_cast<size_t>(place + kPad)]; }
  size_t left(size_t c, size_t by) const { return row_[c + kPad - by]; }
  size_t above(size_t c, size_t by) const { return above_[c].last[(r_ - by) % kReach].kept; }
  // Places of this row from `begin` on, up to `end`.
  void add_range(Tally& tally, int64_t begin, int64_t end) const {
    tally += sums_[static_cast<size_t>(end + kPad)];
    tally -= sums_[static_cast<size_t>(begin + kPad)];
  }

  const Lines& lines_;
  size_t width_;
  size_t r_ = 0;
  std::vector<uint8_t> row_;
  std::vector<Tally> sums_;  // of this row, up to each place
  std::vector<Column> above_;
  std::vector<Tally> all_;  // when rows have one a period before
};

// What is known around the next weight, and what it makes of it.
class MaskModel {
 public:
  MaskModel(const Lines& lines, int64_t kept)
      : lines_(lines),
        columns_(lines),
        past_(lines),
        kept_left_(static_cast<uint64_t>(kept)),
        left_(lines.rows.size() * lines.cols.size()),
        by_density_(kBuckets, kWeights, kRate),
        by_gap_(kSteps, kWeights, kRate) {}

  void begin_row(size_t row) {
    constexpr uint64_t kPrior = 1u << 13;
    constexpr int kMost = 2500;
    const uint64_t pruned_left = left_ > kept_left_ ? left_ - kept_left_ : 0;
    mean_ = std::clamp(log256((kept_left_ << 16) + kPrior) - log256((pruned_left << 16) + kPrior),
                       -kMost, kMost);
    columns_.begin_row(kept_);
    past_.begin_row(row);
    expected_in_row_ = kept_in_row_ = gap_ = 0;
    kept_in_run_ = place_in_run_ = 0;
  }

  // The probability that the weight of this column is kept.
  uint32_t predict(size_t col) {
    constexpr uint64_t kRowPrior = 5u << 15, kNearPrior = 11u << 12;
    const Columns::Surplus column = columns_.surplus(col);
    const int row = surplus(kept_in_row_ << 16, expected_in_row_, kRowPrior);
    if (lines_.begins_run[col]) kept_in_run_ = place_in_run_ = 0;
    expected_by_column_ = probability(mean_ + column.nearby);
    expected_ = probability(mean_ + column.nearby + row);
    used_ = {&residuals_[0][past_.lines_around(col)], &residuals_[1][past_.image_around(col)],
             &residuals_[2][std::min<size_t>(kept_in_run_, 9) * 16 +
                            std::min<size_t>(place_in_run_, 15)]};
    const Tally near = past_.nearby(col);
    logits_ = {mean_,
               column.slow,
               column.quick,
               column.nearby,
               row,
               used_[0]->logit(),
               used_[1]->logit(),
               used_[2]->logit(),
               surplus(uint64_t{near.kept} << 16, near.expected, kNearPrior)};
    const int x = by_density_.mix(logits_, bucket_of(column.quick));
    const int y = by_gap_.mix(logits_, step_of(gap_));
    return probability((x + y) >> 1);
  }

  void update(size_t col, bool kept) {
    by_density_.update(logits_, kept);
    by_gap_.update(logits_, kept);
    for (Residual* residual : used_) residual->update(kept, expected_);
    past_.add(col, kept, expected_);
    if (kept) columns_.keep(col);
    kept_ += static_cast<uint64_t>(kept);
    kept_in_row_ += static_cast<uint64_t>(kept);
    expected_in_row_ += expected_by_column_;
    kept_in_run_ += static_cast<size_t>(kept);
    ++place_in_run_;
    if (kept && kept_left_ > 0) --kept_left_;
    --left_;
    gap_ = kept ? 0 : gap_ + 1;
  }

 private:
  // Found by coordinate descent on pruned LeNets and ResNet-20.
  static constexpr size_t kInputs = 9;
  static constexpr std::array<int32_t, kInputs> kWeights{65536, 34000, 5000,  40000, 37000,
                                                         8500,  4500,  10000, 1000};
  static constexpr MixerRate kRate{170, 1000, 230};

  const Lines& lines_;
  Columns columns_;
  Past past_;
  uint64_t kept_ = 0;          // so far
  uint64_t kept_left_, left_;  // of the whole matrix
  int mean_ = 0;               // the logit of their share
  uint64_t kept_in_row_ = 0;
  uint64_t expected_in_row_ = 0;  // by the columns
  size_t kept_in_run_ = 0, place_in_run_ = 0;
  uint64_t gap_ = 0;
  uint32_t expected_by_column_ = 0, expected_ = 0;  // of the weight at hand
  std::array<std::array<Residual, 160>, 3> residuals_{};
  std::array<Residual*, 3> used_{};
  std::array<int32_t, kInputs> logits_{};
  Mixer<kInputs> by_density_, by_gap_;
};

}  // namespace pomona::mask_model
