#include "infer/csc16_kernel.h"

#include "pomona/error.h"
#include "pomona/packed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace {

using pomona::Layout;

struct Matrix {
  int64_t rows, cols;
  std::vector<float> dense;

  pomona::Weight weight() const {
    return pomona::make_weight("w", pomona::DType::kFloat32, {rows, cols},
                               std::as_bytes(std::span(dense)));
  }
  std::vector<std::byte> packed() const {
    return pomona::pack(weight(), {.layout = Layout::kCsc16}).bytes;
  }
};

// Of `values` different values, besides zero.
Matrix random_matrix(int64_t rows, int64_t cols, double density, unsigned values = 15) {
  std::mt19937 random(static_cast<unsigned>(rows * 31 + cols));
  std::uniform_real_distribution<double> uniform(0, 1);
  Matrix matrix{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols))};
  for (auto& weight : matrix.dense) {
    if (uniform(random) < density) weight = static_cast<float>(1 + random() % values) / 7 - 1.05f;
  }
  return matrix;
}

std::vector<float> random_x(int64_t cols, double density) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<float> x(static_cast<size_t>(cols));
  for (auto& value : x) value = uniform(random) < density ? normal(random) : 0;
  return x;
}

std::vector<float> multiply(std::span<const std::byte> bytes, std::span<const float> x,
                            const float* bias = nullptr, bool has_relu = false) {
  const auto matrix = pomona::check_csc16(bytes);
  std::vector<std::byte> scratch(static_cast<size_t>(pomona::csc16_input_bytes(matrix)));
  const auto input = pomona::make_csc16_input(x, scratch);
  std::vector<float> y(static_cast<size_t>(matrix.header.rows), -7.0f);
  const int64_t blocks = matrix.blocks();
  pomona::multiply_csc16(matrix, input, bias, has_relu, y.data(), blocks / 2, blocks);
  pomona::multiply_csc16(matrix, input, bias, has_relu, y.data(), 0, blocks / 2);
  return y;
}

TEST(Csc16, EqualsADenseProduct) {
  for (const int64_t rows : {1, 7, 511, 512, 513, 1200}) {
    for (const int64_t cols : {1, 2, 9, 65}) {
      for (const double density : {0.0, 0.1, 1.0}) {
        for (const double x_density : {0.0, 0.3, 1.0}) {
          const auto matrix = random_matrix(rows, cols, density);
          const auto bytes = matrix.packed();
          std::vector<float> unpacked(matrix.dense.size());
          pomona::unpack_csc16(pomona::check_csc16(bytes), unpacked.data());
          ASSERT_EQ(unpacked, matrix.dense);
          const auto x = random_x(cols, x_density);
          const auto y = multiply(bytes, x);
          for (int64_t r = 0; r < rows; ++r) {
            double sum = 0, size = 0;
            for (int64_t c = 0; c < cols; ++c) {
              const double term =
                  static_cast<double>(matrix.dense[static_cast<size_t>(r * cols + c)]) *
                  static_cast<double>(x[static_cast<size_t>(c)]);
              sum += term;
              size += std::abs(term);
            }
            ASSERT_NEAR(y[static_cast<size_t>(r)], sum, 70 * 0x1p-24 * size);
          }
        }
      }
    }
  }
}

TEST(Csc16, TakesMatricesWithoutRowsOrColumns) {
  EXPECT_EQ(multiply((Matrix{3, 0, {}}).packed(), {}), std::vector<float>(3));
  EXPECT_EQ(multiply((Matrix{0, 3, {}}).packed(), random_x(3, 1)), std::vector<float>());
}

TEST(Csc16, AddsTheBiasAndClipsBelowZero) {
  const auto bytes = random_matrix(600, 50, 0.3).packed();
  const auto x = random_x(50, 0.5);
  const std::vector<float> bias(600, -0.25f);
  const auto y = multiply(bytes, x);
  EXPECT_GT(*std::ranges::max_element(y), 0.25f);
  const auto clipped = multiply(bytes, x, bias.data(), true);
  for (size_t r = 0; r < y.size(); ++r) EXPECT_EQ(clipped[r], std::max(y[r] - 0.25f, 0.0f));
}

TEST(Csc16, HasInfinityAndNaNAsADenseProductHasThem) {
  const auto bytes = (Matrix{3, 2, {0, 1, 2, 1, -2, 0}}).packed();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto y = multiply(bytes, std::vector<float>{infinity, 1});
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_EQ(y[1], infinity);
  EXPECT_EQ(y[2], -infinity);
  for (const float value : multiply(bytes, std::vector<float>{std::nanf(""), 0})) {
    EXPECT_TRUE(std::isnan(value));
  }
}

TEST(Csc16, TheThreadsDoNotShow) {
  const auto bytes = random_matrix(3000, 400, 0.2).packed();
  const auto x = random_x(400, 0.5);
  std::vector<float> alone(3000), together(3000);
  pomona::multiply(bytes, x, 1, alone);
  const pomona::MultiplyOptions options{
      .parallel_for =
          [](int64_t tasks, const std::function<void(int64_t)>& task) {
            for (int64_t i = tasks - 1; i >= 0; --i) task(i);
          },
      .threads = 3};
  pomona::multiply(bytes, x, 1, together, options);
  EXPECT_EQ(alone, together);
}

TEST(Csc16, SaysWhyItCannot) {
  const auto why_not = [](const Matrix& matrix, pomona::Precision precision) {
    return pomona::why_not_packed(matrix.weight(), {Layout::kCsc16, precision});
  };
  EXPECT_EQ(why_not(random_matrix(40, 40, 1, 128), pomona::Precision::kFloat32), "");
  EXPECT_EQ(why_not(random_matrix(40, 40, 1, 129), pomona::Precision::kFloat32),
            "it has 129 different values, more than 128");
  EXPECT_EQ(why_not(random_matrix(40, 40, 1, 300), pomona::Precision::kFloat32),
            "it has more than 256 different values");
  EXPECT_EQ(why_not(random_matrix(4, 4, 1), pomona::Precision::kInt8),
            "csc16 computes in fp32, not in int8");
}

TEST(CheckCsc16, RefusesOtherBytes) {
  // Blocks of 512 and 188 rows; an entry in every column of both.
  const auto good = random_matrix(700, 30, 0.5).packed();
  pomona::check_csc16(good);
  const auto refuses = [&](size_t at, const std::vector<int>& values, const std::string& words) {
    auto bytes = good;
    for (const int value : values) bytes[at++] = static_cast<std::byte>(value);
    try {
      pomona::check_csc16(bytes);
      ADD_FAILURE() << "accepted, not refused " << words;
    } catch (const pomona::InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  const size_t starts = 64 + 512, blocks = (starts + 2 * 31 * 4 + 7) / 8 * 8, entries = blocks + 24;
  refuses(0, {1}, "to begin with the bytes \"pmpk\"");
  refuses(4, {1}, "of layout csc16 (5), got 1");
  refuses(5, {9}, "of version 1, got 9");
  refuses(15, {0xff}, "with rows that fit it");
  refuses(23, {0xff}, "with cols that fit it");
  refuses(31, {0xff}, "with nnz that fit it");
  refuses(40, {200}, "with codes from 0 to 128, got 200");
  refuses(8, {1, 0}, "bytes, got");
  refuses(starts, {1}, "with starts of block 0 from 0, got 1");
  refuses(starts + 8, {0, 0}, "with starts[2] of at least");
  refuses(starts + 30 * 4, {1, 0}, "with starts of block 0 up to");
  refuses(blocks, {1}, "with blocks from 0, got 1");
  refuses(blocks + 8, {0xff, 0xff, 0xff}, "with blocks_at[1] from 0 to nnz");
  refuses(blocks + 16, {0, 0}, "with blocks_at[2] from");
  refuses(entries, {0x80, 0xff}, "with a row of column 0 above");
  for (size_t size = 0; size < good.size(); size += 61) {
    EXPECT_THROW(pomona::check_csc16(std::span(good).first(size)), pomona::InvalidArgument);
  }
}

}  // namespace
