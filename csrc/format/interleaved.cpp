#include "pomona/interleaved.h"

#include "pomona/error.h"

#include "base/text.h"

#include <numeric>

namespace pomona {
namespace {

constexpr int64_t kMostCentroids = 255;  // code 0 is the filler's

void check_matrix(const Weight& weight, int64_t banks, int gap_bits) {
  const auto refuse = [&](const std::string& condition, const auto& got) {
    throw InvalidArgument(
        text("interleaved_columns: expected `", weight.name, "` ", condition, ", got ", got, "."));
  };
  if (weight.shape.size() != 2) {
    refuse("to have 2 dimensions [rows, cols]", weight.shape.size());
  }
  if (weight.mask.kept() > 0 && !weight.is_shared()) refuse("to be shared", "plain values");
  if (weight.groups() != 1) refuse("to have one codebook", weight.groups());
  if (weight.centroids() > kMostCentroids) {
    refuse(text("to have at most ", kMostCentroids, " centroids"), weight.centroids());
  }
  if (banks < 1) {
    throw InvalidArgument(
        text("interleaved_columns: expected `banks` of at least 1, got ", banks, "."));
  }
  if (gap_bits < 1 || gap_bits > kMostInterleavedGapBits) {
    throw InvalidArgument(text("interleaved_columns: expected `gap_bits` in 1..",
                               kMostInterleavedGapBits, ", got ", gap_bits, "."));
  }
}

// Calls visit(bank, column, gap, code) for each kept weight, column by column within a bank's
// column by ascending row; the gap is whole, no filler taken out.
template <class Visit>
void for_each_in_bank(const Weight& weight, int64_t banks, Visit visit) {
  const int64_t cols = weight.shape[1];
  // The local row after the last weight of each column of each bank.
  std::vector<int64_t> next(static_cast<size_t>(banks * cols));
  size_t i = 0;
  for_each_kept(weight.mask, [&](size_t position) {
    const int64_t row = static_cast<int64_t>(position) / cols;
    const int64_t column = static_cast<int64_t>(position) % cols;
    const int64_t bank = row % banks, local = row / banks;
    int64_t& from = next[static_cast<size_t>(bank * cols + column)];
    visit(bank, column, local - from, static_cast<uint8_t>(weight.codes[i++] + 1));
    from = local + 1;
  });
}

}  // namespace

std::vector<InterleavedBank> interleaved_columns(const Weight& weight, int64_t banks,
                                                 int gap_bits) {
  check_matrix(weight, banks, gap_bits);
  const auto cols = static_cast<size_t>(weight.shape[1]);
  std::vector<InterleavedBank> found(static_cast<size_t>(banks));
  for (auto& bank : found) bank.starts.assign(cols + 1, 0);
  for_each_in_bank(weight, banks, [&](int64_t b, int64_t column, int64_t gap, uint8_t) {
    auto& bank = found[static_cast<size_t>(b)];
    bank.starts[static_cast<size_t>(column) + 1] += (gap >> gap_bits) + 1;
    bank.fillers += gap >> gap_bits;
  });
  for (auto& bank : found) {
    std::partial_sum(bank.starts.begin(), bank.starts.end(), bank.starts.begin());
    bank.codes.resize(static_cast<size_t>(bank.starts.back()));
    bank.gaps.resize(bank.codes.size());
  }
  std::vector<int64_t> at;  // where the next entry of a column of a bank goes
  for (const auto& bank : found) at.insert(at.end(), bank.starts.begin(), bank.starts.end() - 1);
  const auto largest = static_cast<uint8_t>((1 << gap_bits) - 1);
  for_each_in_bank(weight, banks, [&](int64_t b, int64_t column, int64_t gap, uint8_t code) {
    auto& bank = found[static_cast<size_t>(b)];
    int64_t& to = at[static_cast<size_t>(b) * cols + static_cast<size_t>(column)];
    for (int64_t filler = gap >> gap_bits; filler > 0; --filler) {
      bank.gaps[static_cast<size_t>(to++)] = largest;  // its code stays 0
    }
    bank.gaps[static_cast<size_t>(to)] = static_cast<uint8_t>(gap & largest);
    bank.codes[static_cast<size_t>(to++)] = code;
  });
  return found;
}

std::vector<uint8_t> deinterleaved_codes(std::span<const InterleavedBank> banks, int64_t rows,
                                         int64_t cols) {
  const auto refuse = [](const std::string& condition, const auto& got) {
    throw InvalidArgument(
        text("deinterleaved_codes: expected `banks` ", condition, ", got ", got, "."));
  };
  if (rows < 0 || cols < 0) refuse("of a shape that is not negative", text(rows, " x ", cols));
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  const auto count = static_cast<int64_t>(banks.size());
  for (int64_t b = 0; b < count; ++b) {
    const auto& bank = banks[static_cast<size_t>(b)];
    if (std::ssize(bank.starts) != cols + 1) {
      refuse(text("with ", cols + 1, " starts"), bank.starts.size());
    }
    if (bank.gaps.size() != bank.codes.size() || bank.starts.back() != std::ssize(bank.codes)) {
      refuse("with a gap and a code for each entry", bank.gaps.size());
    }
    for (int64_t column = 0; column < cols; ++column) {
      int64_t local = 0;
      const auto begin = bank.starts[static_cast<size_t>(column)];
      const auto end = bank.starts[static_cast<size_t>(column) + 1];
      if (begin < 0 || end < begin || end > bank.starts.back()) {
        refuse("with starts that rise", end);
      }
      for (int64_t e = begin; e < end; ++e, ++local) {
        local += bank.gaps[static_cast<size_t>(e)];
        const int64_t row = local * count + b;
        if (row >= rows) refuse(text("with rows below ", rows), row);
        codes[static_cast<size_t>(row * cols + column)] = bank.codes[static_cast<size_t>(e)];
      }
    }
  }
  return codes;
}

}  // namespace pomona
