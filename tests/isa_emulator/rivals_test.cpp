// The rivals that benchmarks compile for AVX-512 (benchmarks/rivals): right, or a comparison with
// them says nothing.
#include "frozen_pg32.h"
#include "stream_sgemv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace {

using pomona::rivals::CompressedRows;
using pomona::rivals::FrozenPg32;
using pomona::rivals::StreamIsa;

struct Problem {
  int rows, cols;
  std::vector<int64_t> starts{0};
  std::vector<int32_t> columns;
  std::vector<uint8_t> codes;
  float codebook[32] = {};
  std::vector<float> dense, x;  // x with padding

  Problem(int rows_, int cols_, double density, int values = 15) : rows(rows_), cols(cols_) {
    std::mt19937 random(1);
    std::uniform_real_distribution<double> uniform(0, 1);
    for (int i = 1; i <= values; ++i) codebook[i] = static_cast<float>(uniform(random) - 0.5);
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < cols; ++c) {
        const bool is_kept = uniform(random) < density;
        const auto code = static_cast<uint8_t>(1 + random() % static_cast<unsigned>(values));
        dense.push_back(is_kept ? codebook[code] : 0);
        if (!is_kept) continue;
        columns.push_back(c);
        codes.push_back(code);
      }
      starts.push_back(static_cast<int64_t>(columns.size()));
    }
    for (int c = 0; c < cols; ++c) x.push_back(static_cast<float>(uniform(random) - 0.3));
    x.resize(x.size() + pomona::rivals::kFrozenPg32Padding);
  }

  CompressedRows matrix() const { return {rows, cols, starts, columns, codes}; }

  // The largest |y - W x| over the sum of |w x|, in double.
  double error(const std::vector<float>& y) const {
    double worst = 0;
    for (int r = 0; r < rows; ++r) {
      double sum = 0, size = 1e-30;
      for (int c = 0; c < cols; ++c) {
        const double product = static_cast<double>(dense[static_cast<size_t>(r * cols + c)]) *
                               x[static_cast<size_t>(c)];
        sum += product;
        size += std::abs(product);
      }
      worst = std::max(worst, std::abs(y[static_cast<size_t>(r)] - sum) / size);
    }
    return worst;
  }
};

constexpr double kSumError = 1e-6;

TEST(FrozenPg32, EqualsTheDenseProductAtEveryRateAndAroundEveryTile) {
  for (const int rows : {1, 31, 32, 33, 65}) {
    for (const int cols : {1, 31, 33, 40, 257, 600}) {
      for (const double density : {0.0, 0.04, 0.09, 0.25, 1.0}) {
        const Problem problem(rows, cols, density, density < 0.1 ? 31 : 15);
        const FrozenPg32 packed =
            pomona::rivals::pack_frozen_pg32(problem.matrix(), problem.codebook);
        std::vector<float> y(static_cast<size_t>(rows), NAN);
        pomona::rivals::multiply_frozen_pg32(packed, problem.x.data(), y.data(), 0, rows);
        EXPECT_LT(problem.error(y), kSumError) << rows << " x " << cols << ", " << density;
      }
    }
  }
}

TEST(FrozenPg32, GivesTheSameBitsInTwoHalves) {
  const Problem problem(100, 300, 0.09);
  const FrozenPg32 packed = pomona::rivals::pack_frozen_pg32(problem.matrix(), problem.codebook);
  std::vector<float> whole(100), halves(100);
  pomona::rivals::multiply_frozen_pg32(packed, problem.x.data(), whole.data(), 0, 100);
  pomona::rivals::multiply_frozen_pg32(packed, problem.x.data(), halves.data(), 0, 64);
  pomona::rivals::multiply_frozen_pg32(packed, problem.x.data(), halves.data(), 64, 100);
  EXPECT_EQ(whole, halves);
}

TEST(FrozenPg32, SpillsLittleAtItsRates) {
  // A window of 32 that slides by 8, slots filled to 0.72 and 0.89.
  const Problem sparse(64, 4096, 0.09), dense(64, 4096, 0.25);
  const auto share = [](const Problem& problem) {
    const FrozenPg32 packed = pomona::rivals::pack_frozen_pg32(problem.matrix(), problem.codebook);
    return static_cast<double>(packed.spill_columns.size()) /
           static_cast<double>(problem.columns.size());
  };
  EXPECT_LT(share(sparse), 0.035);
  EXPECT_LT(share(dense), 0.015);
}

TEST(StreamSgemv, EqualsTheDoubleProductInEachInstructionSet) {
  for (const StreamIsa isa : {StreamIsa::kAvx2, StreamIsa::kAvx512}) {
    for (const int cols : {1, 63, 64, 65, 1000}) {
      const Problem problem(5, cols, 0.5);
      std::vector<float> y(5, NAN);
      pomona::rivals::stream_sgemv(problem.dense.data(), problem.x.data(), y.data(), cols, 0, 5,
                                   isa);
      EXPECT_LT(problem.error(y), kSumError) << cols;
    }
  }
}

}  // namespace
