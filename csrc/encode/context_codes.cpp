#include "encode/context_codes.h"

#include "pomona/error.h"

#include "base/text.h"
#include "encode/binary_coder.h"
#include "encode/context_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <utility>

namespace pomona {
namespace {

constexpr uint32_t kLimit = 1000;  // what counters remember
constexpr int64_t kLevels = 8;     // of the code before in the row
constexpr int64_t kThirds = 3;     // of a code nearby
constexpr size_t kSizes = 4;       // of a mean magnitude
constexpr int64_t kMeans = 7;      // of a mean code
constexpr int64_t kTrends = 10;    // of the mean of the codes nearby
constexpr size_t kDensities = 6;
constexpr size_t kCrowds = 9;  // of how many weights are kept nearby

// What the codes seen in a row or column are like. The middle of the codebook counts as 0.
struct Line {
  uint64_t kept = 0;  // by the mask
  int64_t seen = 0;
  int64_t magnitude = 0;  // the sum of distances from the middle
  int64_t sum = 0;        // of twice the signed ones
  int last = -1;
};

// The codes of this row and of the two above.
class LastRows {
 public:
  explicit LastRows(int64_t cols) : cols_(cols) {
    for (auto& row : rows_) row.assign(static_cast<size_t>(cols), -1);
  }
  void begin_row(int64_t row) {
    for (int64_t r = std::max(r_ + 1, row - 2); r <= row; ++r) {
      std::ranges::fill(rows_[static_cast<size_t>(r % 3)], int16_t{-1});
    }
    r_ = row;
  }
  void put(int64_t col, int code) { at(0, col) = static_cast<int16_t>(code); }
  // Of the column, so many rows above; -1 where none is coded.
  int code(int64_t above, int64_t col) {
    return col < 0 || col >= cols_ || above > r_ ? -1 : at(above, col);
  }

 private:
  int16_t& at(int64_t above, int64_t col) {
    return rows_[static_cast<size_t>((r_ - above) % 3)][static_cast<size_t>(col)];
  }
  int64_t cols_;
  int64_t r_ = 0;
  std::array<std::vector<int16_t>, 3> rows_;
};

// The weights around one: in its window, in the image, or along its row and column.
struct Nearby {
  int64_t sum = 0;    // of the codes, twice as far from the middle as they are, weighted
  int64_t count = 0;  // of those, weighted
  size_t kept = 0;    // by the mask, coded or not
};

class Neighbours {
 public:
  // `period` of the columns; 0: none.
  Neighbours(const Mask& mask, const CodedMatrix& shape, int64_t alphabet, int64_t period)
      : mask_(mask), shape_(shape), alphabet_(alphabet), period_(period), codes_(shape.cols) {}

  void move_to(int64_t row, int64_t col) {
    if (row != row_) codes_.begin_row(row);
    if (shape_.inner > 1 && (row != row_ || col / shape_.inner != col_ / shape_.inner)) {
      begin_window(row, col);
    }
    row_ = row;
    col_ = col;
  }
  void put(int code) {
    codes_.put(col_, code);
    window_.sum += 2 * code + 1 - alphabet_;
    ++window_.count;
  }
  // To the left, a period before (or above), and above, in thirds of the codebook.
  size_t thirds() {
    const int before = period_ > 0 ? codes_.code(0, col_ - period_) : codes_.code(1, col_);
    return (third(codes_.code(0, col_ - 1)) * (kThirds + 1) + third(before)) * (kThirds + 1) +
           third(codes_.code(1, col_));
  }
  Nearby nearby() {
    if (shape_.inner > 1) return window_;
    return period_ > 0 ? in_image() : along_lines();
  }

 private:
  void begin_window(int64_t row, int64_t col) {
    window_ = {};
    const int64_t begin = col / shape_.inner * shape_.inner;
    for (int64_t c = begin; c < begin + shape_.inner; ++c) count_kept(window_, row, c);
  }
  Nearby in_image() {
    Nearby nearby;
    for (const int64_t col : {col_ - 1, col_ - period_}) add(nearby, 0, col, 2);
    for (const int64_t col :
         {col_ - 2, col_ - period_ - 1, col_ - period_ + 1, col_ - 2 * period_}) {
      add(nearby, 0, col, 1);
    }
    for (const int64_t by : {-1, 1}) count_kept(nearby, row_, col_ + by);
    for (const int64_t by : {-1, 0, 1}) {
      count_kept(nearby, row_, col_ - period_ + by);
      count_kept(nearby, row_, col_ + period_ + by);
    }
    return nearby;
  }
  Nearby along_lines() {
    Nearby nearby;
    for (const int64_t by : {1, 2}) {
      add(nearby, 0, col_ - by, 1);
      add(nearby, by, col_, 1);
    }
    for (const int64_t by : {-2, -1, 1, 2}) {
      count_kept(nearby, row_, col_ + by);
      count_kept(nearby, row_ + by, col_);
    }
    return nearby;
  }
  void add(Nearby& nearby, int64_t above, int64_t col, int64_t weight) {
    const int code = codes_.code(above, col);
    if (code < 0) return;
    nearby.sum += weight * (2 * code + 1 - alphabet_);
    nearby.count += weight;
  }
  void count_kept(Nearby& nearby, int64_t row, int64_t col) const {
    if (row < 0 || row >= shape_.rows || col < 0 || col >= shape_.cols) return;
    nearby.kept += mask_[row * shape_.cols + col] ? 1 : 0;
  }
  size_t third(int code) const {
    return static_cast<size_t>(code < 0 ? kThirds : code * kThirds / alphabet_);
  }

  const Mask& mask_;
  const CodedMatrix& shape_;
  int64_t alphabet_, period_;
  LastRows codes_;
  Nearby window_;
  int64_t row_ = -1, col_ = -1;
};

class CodeModel {
 public:
  CodeModel(const Mask& mask, const CodedMatrix& shape, int64_t alphabet, int64_t period)
      : shape_(shape),
        alphabet_(alphabet),
        bits_(static_cast<int>(std::bit_width(static_cast<uint64_t>(alphabet - 1)))),
        nodes_(size_t{1} << bits_),
        rows_(static_cast<size_t>(shape.rows)),
        cols_(static_cast<size_t>(shape.cols)),
        neighbours_(mask, shape, alphabet, period),
        by_depth_(static_cast<size_t>(bits_), kWeights, kRate),
        by_node_(nodes_, kWeights, kRate) {
    for (size_t m = 0; m < kModels; ++m) counters_[m].resize(kContexts[m] * nodes_);
    for_each_kept(mask, [&](size_t i) {
      ++rows_[i / static_cast<size_t>(shape.cols)].kept;
      ++cols_[i % static_cast<size_t>(shape.cols)].kept;
    });
  }

  // Codes one weight, the element i, in either direction.
  template <class Coder>
  uint8_t code(Coder& coder, size_t i, uint8_t code) {
    find_contexts(static_cast<int64_t>(i));
    uint32_t node = 1;
    for (int bit = bits_ - 1; bit >= 0; --bit) {
      const auto above = static_cast<int64_t>(((node << 1 | 1) << bit) & (nodes_ - 1));
      if (above >= alphabet_) {  // no code has a 1 here
        node <<= 1;
        continue;
      }
      const auto depth = static_cast<size_t>(bits_ - 1 - bit);
      node = node << 1 | code_bit(coder, node, depth, (code >> bit & 1) != 0);
    }
    const auto coded = static_cast<uint8_t>(node & (nodes_ - 1));
    remember(coded);
    return coded;
  }

 private:
  static constexpr size_t kModels = 7;
  static constexpr std::array<size_t, kModels> kContexts{
      1,
      kSizes* kSizes,
      kLevels + 1,
      kDensities* kDensities,
      (kThirds + 1) * (kThirds + 1) * (kThirds + 1),
      kMeans* kMeans,
      (kTrends + 1) * kCrowds};
  // Found by coordinate descent on pruned LeNets and ResNet-20. The last is of a constant.
  static constexpr std::array<int32_t, kModels + 1> kWeights{0,     7200, 8000, 13500,
                                                             12600, 5000, 7500, 0};
  static constexpr MixerRate kRate{110, 330, 87};

  // The mean magnitude so far, in quarters of the largest.
  size_t size_of(const Line& line) const {
    const int64_t half = alphabet_ / 2 + 1;
    const int64_t mean = (4 * line.magnitude + half) / (half * (line.seen + 1));
    return std::min(static_cast<size_t>(mean), kSizes - 1);
  }
  // The mean code so far, from -3 to 3 about the middle, as 0 to 6.
  size_t mean_of(const Line& line) const {
    const int64_t mean = 6 * line.sum / ((line.seen + 2) * alphabet_ / 2 + 1);
    return static_cast<size_t>(std::clamp<int64_t>(mean + kMeans / 2, 0, kMeans - 1));
  }
  // In halvings, from half on.
  static size_t density_of(const Line& line, int64_t length) {
    const uint64_t rarity = static_cast<uint64_t>(length) / (2 * line.kept + 1);
    return std::min(static_cast<size_t>(std::bit_width(rarity)), kDensities - 1);
  }
  size_t level_of(int code) const {
    return static_cast<size_t>(code < 0 ? kLevels : code * kLevels / alphabet_);
  }
  // The mean of the codes nearby, nearer to the middle the fewer there are; 0: there are none.
  size_t trend_of(const Nearby& nearby) const {
    if (nearby.count == 0) return 0;
    const int64_t most = alphabet_ * (nearby.count + 1);
    const int64_t trend = (4 * nearby.sum + kTrends / 2 * most) / most;
    return static_cast<size_t>(1 + std::clamp<int64_t>(trend, 0, kTrends - 1));
  }

  void find_contexts(int64_t i) {
    const int64_t row = i / shape_.cols, col = i % shape_.cols;
    row_ = &rows_[static_cast<size_t>(row)];
    col_ = &cols_[static_cast<size_t>(col)];
    neighbours_.move_to(row, col);
    const Nearby nearby = neighbours_.nearby();
    const std::array<size_t, kModels> contexts{
        0,
        size_of(*row_) * kSizes + size_of(*col_),
        level_of(row_->last),
        density_of(*row_, shape_.cols) * kDensities + density_of(*col_, shape_.rows),
        neighbours_.thirds(),
        mean_of(*row_) * kMeans + mean_of(*col_),
        trend_of(nearby) * kCrowds + std::min(nearby.kept, kCrowds - 1)};
    for (size_t m = 0; m < kModels; ++m) at_[m] = &counters_[m][contexts[m] * nodes_];
  }

  template <class Coder>
  uint32_t code_bit(Coder& coder, uint32_t node, size_t depth, bool bit) {
    std::array<int32_t, kModels + 1> logits{};
    for (size_t m = 0; m < kModels; ++m) logits[m] = at_[m][node].shy_logit();
    logits[kModels] = 256;
    const int x = by_depth_.mix(logits, depth);
    const int y = by_node_.mix(logits, node);
    bit = coder.code(bit, probability((x + y) >> 1));
    by_depth_.update(logits, bit);
    by_node_.update(logits, bit);
    for (Counter* counters : at_) counters[node].update(bit, kLimit);
    return bit;
  }

  void remember(int code) {
    const int64_t twice = 2 * code + 1 - alphabet_;
    for (Line* line : {row_, col_}) {
      ++line->seen;
      line->magnitude += std::abs(twice) / 2;
      line->sum += twice;
      line->last = code;
    }
    neighbours_.put(code);
  }

  const CodedMatrix& shape_;
  int64_t alphabet_;
  int bits_;
  size_t nodes_;
  std::vector<Line> rows_, cols_;
  Neighbours neighbours_;
  std::array<std::vector<Counter>, kModels> counters_;  // [context][node]
  std::array<Counter*, kModels> at_{};
  Mixer<kModels + 1> by_depth_, by_node_;
  Line* row_ = nullptr;
  Line* col_ = nullptr;
};

void check_shape(const Mask& mask, const CodedMatrix& shape, int64_t alphabet) {
  if (mask.size() != shape.rows * shape.cols) {
    throw InvalidArgument(text("codes in context: expected mask.size() == rows * cols, got ",
                               mask.size(), " and ", shape.rows, " * ", shape.cols, "."));
  }
  if (alphabet < 1 || alphabet > 256) {
    throw InvalidArgument(
        text("codes in context: expected alphabet in 1..256, got ", alphabet, "."));
  }
}

void check_codes(std::span<const uint8_t> codes, const Mask& mask, int64_t alphabet) {
  if (codes.size() != static_cast<size_t>(mask.kept())) {
    throw InvalidArgument(text("codes in context: expected one code for each of ", mask.kept(),
                               " kept weights, got ", codes.size(), "."));
  }
  const auto most = std::ranges::max_element(codes);
  if (most != codes.end() && *most >= alphabet) {
    throw InvalidArgument(text("codes in context: expected codes below the alphabet, ", alphabet,
                               ", got ", int{*most}, "."));
  }
}

// Whether the inputs are an image cannot be known, so it is coded. A window is one.
bool may_be_image(const CodedMatrix& shape) {
  return shape.inner <= 1 && period_of(shape.cols, shape.inner) > 0;
}

template <class Coder>
int64_t code_period(Coder& coder, bool is_image, const CodedMatrix& shape) {
  if (may_be_image(shape) && !coder.code(is_image, kHalf)) return 0;
  return period_of(shape.cols, shape.inner);
}

// The first `count` codes.
std::vector<std::byte> encode_some(std::span<const uint8_t> codes, size_t count, bool is_image,
                                   const Mask& mask, const CodedMatrix& shape, int64_t alphabet) {
  BinaryEncoder encoder;
  CodeModel model(mask, shape, alphabet, code_period(encoder, is_image, shape));
  size_t n = 0;
  for_each_kept(mask, [&](size_t i) {
    if (n < count) model.code(encoder, i, codes[n++]);
    return n < count;
  });
  return std::move(encoder).finish();
}

constexpr size_t kTrial = 1 << 14;  // codes that are enough to see an image by

}  // namespace

std::vector<std::byte> encode_codes(std::span<const uint8_t> codes, const Mask& mask,
                                    const CodedMatrix& shape, int64_t alphabet) {
  check_shape(mask, shape, alphabet);
  check_codes(codes, mask, alphabet);
  if (codes.empty() || alphabet == 1) return {};
  bool is_image = false;
  if (may_be_image(shape)) {
    const size_t count = std::min(codes.size(), kTrial);
    is_image = encode_some(codes, count, true, mask, shape, alphabet).size() <
               encode_some(codes, count, false, mask, shape, alphabet).size();
  }
  return encode_some(codes, codes.size(), is_image, mask, shape, alphabet);
}

std::vector<uint8_t> decode_codes_in_context(std::span<const std::byte> bytes, const Mask& mask,
                                             const CodedMatrix& shape, int64_t alphabet) {
  check_shape(mask, shape, alphabet);
  std::vector<uint8_t> codes;
  codes.reserve(static_cast<size_t>(mask.kept()));
  BinaryDecoder decoder(bytes);
  if (mask.kept() == 0 || alphabet == 1) {
    codes.resize(static_cast<size_t>(mask.kept()));
  } else {
    CodeModel model(mask, shape, alphabet, code_period(decoder, false, shape));
    for_each_kept(mask, [&](size_t i) { codes.push_back(model.code(decoder, i, 0)); });
  }
  decoder.finish();
  return codes;
}

}  // namespace pomona
