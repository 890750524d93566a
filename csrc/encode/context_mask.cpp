#include "encode/context_mask.h"

#include "pomona/error.h"

#include "base/text.h"
#include "encode/binary_coder.h"
#include "encode/context_model.h"
#include "encode/mask_model.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace pomona {
namespace {

using mask_model::kNone;
using mask_model::Lines;
using mask_model::lines_at;
using mask_model::MaskModel;

constexpr uint32_t kFlagLimit = 30;  // what flags of rows and columns remember
// How a mask is seen.
struct View {
  bool is_transposed = false;
  bool has_period = false;
};

struct Flags {
  std::vector<bool> rows, cols;
};

// Which lines have weights: flags, each in the context of the one before and, where lines make an
// image `width` wide, of the pixels above and above to the right (width 0: no image).
template <class Coder>
std::vector<int64_t> code_lines(Coder& coder, const std::vector<bool>& has_weights, int64_t width) {
  std::array<Counter, 8> counters;
  std::vector<bool> flags;
  std::vector<int64_t> lines;
  const auto flag_before = [&](int64_t distance) {
    const int64_t place = std::ssize(flags) - distance;
    return place >= 0 && flags[static_cast<size_t>(place)];
  };
  for (const bool has_weight : has_weights) {
    size_t context = flags.empty() || flag_before(1);
    if (width > 0) context += 2u * flag_before(width) + 4u * flag_before(width - 1);
    Counter& counter = counters[context];
    const bool flag = coder.code(has_weight, std::clamp<uint32_t>(counter.p(), 64, 65472));
    counter.update(flag, kFlagLimit);
    if (flag) lines.push_back(std::ssize(flags));
    flags.push_back(flag);
  }
  return lines;
}

template <class Coder>
Lines code_layout(Coder& coder, View view, const Flags& flags, const CodedMatrix& shape) {
  const int64_t period = period_of(shape.cols, shape.inner);
  const bool is_transposed = coder.code(view.is_transposed, kHalf);
  const bool has_period = period > 0 && coder.code(view.has_period, kHalf);
  Lines lines;
  lines.rows = code_lines(coder, flags.rows, 0);
  lines.cols = code_lines(coder, flags.cols, has_period && shape.inner <= 1 ? period : 0);
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
  const Lines lines = code_layout(coder, view, flags, shape);
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
