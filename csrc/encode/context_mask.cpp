#include "encode/context_mask.h"

#include "pomona/error.h"

#include "base/text.h"
#include "encode/binary_coder.h"
#include "encode/context_model.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace pomona {
namespace {

constexpr uint32_t kFlagLimit = 30;   // what flags of rows and columns remember
constexpr int kBuckets = 12;          // of a density beside the mean
constexpr int kSteps = 24;            // of a gap
constexpr int64_t kReach = 4;         // how far one looks for weights nearby
constexpr int64_t kNone = -kReach;    // the place of a line that is not there
constexpr int64_t kPad = 2 * kReach;  // zeros before a row, so that one may look at kNone

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
std::vector<int64_t> lines_at(std::span<const int64_t> lines, int64_t distance) {
  std::vector<int64_t> places(lines.size(), kNone);
  if (distance == 0) return places;
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto found = std::ranges::lower_bound(lines, lines[i] - distance);
    if (found != lines.end() && *found == lines[i] - distance) places[i] = found - lines.begin();
  }
  return places;
}

size_t bucket_of(int x) {
  constexpr int kStep = 128;
  return static_cast<size_t>(std::clamp((x + kBuckets / 2 * kStep) / kStep, 0, kBuckets - 1));
}

// log2 of gap + 1, in steps of half.
size_t step_of(uint64_t gap) {
  const uint64_t x = gap + 1;
  const auto high = static_cast<size_t>(std::bit_width(x)) - 1;
  const size_t half = high > 0 ? (x >> (high - 1)) & 1 : 0;
  return std::min<size_t>(2 * high + half, kSteps - 1);
}

int clamped(int x) {
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

// How a mask is seen.
struct View {
  bool is_transposed = false;
  bool has_period = false;
};

struct Flags {
  std::vector<bool> rows, cols;
};

// Which lines have weights: flags, each in the context of the one before.
template <class Coder>
std::vector<int64_t> code_lines(Coder& coder, const std::vector<bool>& has_weights) {
  std::array<Counter, 2> counters;
  std::vector<int64_t> lines;
  bool before = true;
  for (size_t i = 0; i < has_weights.size(); ++i) {
    Counter& counter = counters[before];
    const bool flag = coder.code(has_weights[i], std::clamp<uint32_t>(counter.p(), 64, 65472));
    counter.update(flag, kFlagLimit);
    if (flag) lines.push_back(static_cast<int64_t>(i));
    before = flag;
  }
  return lines;
}

template <class Coder>
Lines code_layout(Coder& coder, View view, const Flags& flags, int64_t period) {
  const bool is_transposed = coder.code(view.is_transposed, kHalf);
  const bool has_period = period > 0 && coder.code(view.has_period, kHalf);
  Lines lines;
  lines.rows = code_lines(coder, flags.rows);
  lines.cols = code_lines(coder, flags.cols);
  lines.row_back = lines.row_ahead = lines_at(lines.rows, 0);
  lines.col_back = lines_at(lines.cols, has_period ? period : 0);
  lines.col_ahead = lines_at(lines.cols, has_period ? -period : 0);
  lines.has_row_back = has_period && is_transposed;
  if (is_transposed) lines.transpose();
  lines.begins_run.resize(lines.cols.size());
  for (size_t c = 1; has_period && !is_transposed && c < lines.cols.size(); ++c) {
    lines.begins_run[c] = lines.cols[c] / period != lines.cols[c - 1] / period;
  }
  lines.is_transposed = is_transposed;
  return lines;
}

// Both directions at once. The encoder is given flags and bits; the decoder calls visit(i, bit) for
// each that it has found, and what it is given counts for nothing.
template <class Coder, class Kept, class Visit>
void code_mask(Coder& coder, View view, const Flags& flags, const CodedMatrix& shape, int64_t kept,
               Kept kept_at, Visit visit) {
  if (shape.rows == 0 || shape.cols == 0) return;
  const Lines lines = code_layout(coder, view, flags, period_of(shape.cols, shape.inner));
  MaskModel model(lines, kept);
  for (size_t r = 0; r < lines.rows.size(); ++r) {
    model.begin_row(r);
    for (size_t c = 0; c < lines.cols.size(); ++c) {
      const int64_t row = lines.rows[r], col = lines.cols[c];
      const int64_t i = lines.is_transposed ? col * shape.cols + row : row * shape.cols + col;
      const bool bit = coder.code(kept_at(i), model.predict(c));
      visit(i, bit);
      model.update(c, bit);
    }
  }
}

Flags flags_of(const Mask& mask, const CodedMatrix& shape) {
  Flags flags{std::vector<bool>(static_cast<size_t>(shape.rows)),
              std::vector<bool>(static_cast<size_t>(shape.cols))};
  for_each_kept(mask, [&](size_t i) {
    flags.rows[i / static_cast<size_t>(shape.cols)] = true;
    flags.cols[i % static_cast<size_t>(shape.cols)] = true;
  });
  return flags;
}

std::vector<std::byte> encode_view(const Mask& mask, const CodedMatrix& shape, View view) {
  BinaryEncoder encoder;
  code_mask(
      encoder, view, flags_of(mask, shape), shape, mask.kept(), [&](int64_t i) { return mask[i]; },
      [](int64_t, bool) {});
  return std::move(encoder).finish();
}

struct Encoded {
  View view;
  std::vector<std::byte> bytes;
};

// The view with the fewest bytes, the first among equals.
Encoded best_view(const Mask& mask, const CodedMatrix& shape) {
  std::optional<Encoded> best;
  for (const bool has_period : {false, true}) {
    if (has_period && period_of(shape.cols, shape.inner) == 0) continue;
    for (const bool is_transposed : {false, true}) {
      const View view{is_transposed, has_period};
      auto bytes = encode_view(mask, shape, view);
      if (!best || bytes.size() < best->bytes.size()) best = Encoded{view, std::move(bytes)};
    }
  }
  return std::move(*best);
}

// The rows in the middle of a large matrix, enough to choose a view by.
constexpr int64_t kTrial = 1 << 16;
std::pair<Mask, CodedMatrix> trial_of(const Mask& mask, const CodedMatrix& shape) {
  const int64_t rows = std::clamp<int64_t>(kTrial / shape.cols, 1, shape.rows);
  const int64_t first = (shape.rows - rows) / 2 * shape.cols;
  Mask trial(rows * shape.cols, false);
  for (int64_t i = 0; i < trial.size(); ++i) {
    if (mask[first + i]) trial.set(i, true);
  }
  return {std::move(trial), {rows, shape.cols, shape.inner}};
}

}  // namespace

std::vector<std::byte> encode_mask(const Mask& mask, const CodedMatrix& shape) {
  if (mask.size() != shape.rows * shape.cols) {
    throw InvalidArgument(text("mask in context: expected mask.size() == rows * cols, got ",
                               mask.size(), " and ", shape.rows, " * ", shape.cols, "."));
  }
  if (mask.size() <= 2 * kTrial) return best_view(mask, shape).bytes;
  const auto [trial, trial_shape] = trial_of(mask, shape);
  return encode_view(mask, shape, best_view(trial, trial_shape).view);
}

Mask decode_mask(std::span<const std::byte> bytes, const CodedMatrix& shape, int64_t kept) {
  Mask mask(shape.rows * shape.cols, false);
  BinaryDecoder decoder(bytes);
  const Flags flags{std::vector<bool>(static_cast<size_t>(shape.rows)),
                    std::vector<bool>(static_cast<size_t>(shape.cols))};
  code_mask(
      decoder, {}, flags, shape, kept, [](int64_t) { return false; },
      [&](int64_t i, bool bit) {
        if (bit) mask.set(i, true);
      });
  decoder.finish();
  return mask;
}

}  // namespace pomona
