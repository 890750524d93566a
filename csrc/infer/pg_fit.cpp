// why_not_pg: which matrices the tiles can hold.

#include "base/text.h"
#include "infer/pg_lanes.h"
#include "infer/pg_layout.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace pomona {
namespace {

constexpr int64_t kMostCols = int64_t{1} << 24;
constexpr int64_t kMostRows = int64_t{1} << 30;
// A sum of bytes times bytes stays below 2^31 for so many nonzeros of a row: 2 * 255 * 128 each.
constexpr int64_t kMostOfARowInBytes = 32'000;
// bfloat16 arithmetic flushes what is denormal; the kernel looks at x for the other half of this.
constexpr float kLeastInBFloat16 = 0x1p-24f, kMostInBFloat16 = 0x1p60f;
// Nonzeros without a code spill; with more of them than this another layout is faster.
constexpr double kMostWithoutCode = 0.03;

std::vector<int64_t> kept_of_rows(const Weight& matrix) {
  std::vector<int64_t> counts(static_cast<size_t>(matrix.shape[0]));
  for_each_kept(matrix.mask, [&](size_t i) { ++counts[i / static_cast<size_t>(matrix.shape[1])]; });
  return counts;
}

bool is_bfloat16_arithmetic_exact_enough(const std::vector<float>& codebook) {
  return std::ranges::all_of(codebook, [](float value) {
    const float size = std::abs(value);
    return size == 0 || (size >= kLeastInBFloat16 && size <= kMostInBFloat16);
  });
}

}  // namespace

std::string why_not_pg(const Weight& matrix, PackedForm form, Precision precision) {
  const int64_t rows = matrix.shape[0], cols = matrix.shape[1];
  if (matrix.mask.kept() == 0) return "it has no nonzero";
  if (!matrix.is_shared()) return "it has more than 256 different values";
  if (cols > kMostCols || rows > kMostRows) return text("it is ", rows, " x ", cols);
  if (matrix.mask.kept() >= int64_t{1} << 32) return "it has 2^32 nonzeros or more";
  if (form == PackedForm::kBFloat16 && !is_bfloat16_arithmetic_exact_enough(matrix.codebook)) {
    return "its codebook leaves the range of bfloat16 arithmetic";
  }
  const bool is_bytes = precision == Precision::kFixed16 || precision == Precision::kInt8;
  if (is_bytes != (form == PackedForm::kBytes)) return "of its precision";
  if (is_bytes && cols > kMostOfARowInBytes) {
    const auto counts = kept_of_rows(matrix);
    if (std::ranges::max(counts) > kMostOfARowInBytes) {
      return text("a row has more than ", kMostOfARowInBytes, " nonzeros");
    }
  }
  const auto without = static_cast<double>(pg_nonzeros_without_code(matrix, pg_shape(form).codes));
  if (without > kMostWithoutCode * static_cast<double>(matrix.codes.size())) {
    return text("it has more than ", pg_shape(form).codes - 1, " values that matter");
  }
  return "";
}

}  // namespace pomona
