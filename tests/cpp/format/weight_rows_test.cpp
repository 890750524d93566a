#include "format/weight_rows.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <span>
#include <vector>

namespace {

using pomona::DType;
using pomona::Weight;

std::vector<std::byte> bytes_of(std::span<const float> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

void expect_rows(const Weight& weight, const std::vector<float>& dense, int64_t rows,
                 int64_t cols) {
  for (int64_t first = 0; first <= rows; ++first) {
    for (int64_t last = first; last <= rows; ++last) {
      const Weight cut = pomona::rows_of(weight, first, last);
      cut.check();
      EXPECT_EQ(cut.shape, (std::vector<int64_t>{last - first, cols}));
      EXPECT_EQ(cut.is_shared(), weight.is_shared() && (first < last || weight.group == 0));
      const auto expected = std::span(dense).subspan(static_cast<size_t>(first * cols),
                                                     static_cast<size_t>((last - first) * cols));
      EXPECT_EQ(cut.to_dense(), bytes_of(expected)) << first << " to " << last;
    }
  }
}

// Few values in all; few in each row, others in each; many.
TEST(WeightRows, AreTheRowsOfTheDenseMatrix) {
  std::mt19937 random(1);
  for (const int64_t cols : {1, 7, 64, 130}) {
    constexpr int64_t kRows = 9;
    for (const int kind : {0, 1, 2}) {
      std::vector<float> dense(static_cast<size_t>(kRows * cols));
      for (size_t i = 0; i < dense.size(); ++i) {
        if (random() % 3 != 0) continue;
        const auto row = static_cast<float>(i / static_cast<size_t>(cols));
        const auto few = static_cast<float>(1 + random() % 3);
        dense[i] = kind == 0 ? few : kind == 1 ? 16 * row + few : static_cast<float>(random());
      }
      const auto weight = pomona::make_weight("w", DType::kFloat32, {kRows, cols}, bytes_of(dense));
      expect_rows(weight, dense, kRows, cols);
    }
  }
}

TEST(WeightRows, KeepACodebookOfEachRow) {
  Weight weight{.name = "w", .shape = {3, 2}, .mask = pomona::Mask(6)};
  weight.mask.set(2, false);
  weight.group = 2;
  weight.codebook = {1, 2, 3, 4, 5, 6};
  weight.codes = {1, 0, 0, 1, 0};
  weight.check();
  expect_rows(weight, {2, 1, 0, 3, 6, 5}, 3, 2);
}

}  // namespace
