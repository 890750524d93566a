// Compiled twice, as pg_kernel_test.cpp is.

#include "infer/lut_kernel.h"

#include "pomona/error.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace {

using pomona::Isa;

constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512};

pomona::Weight weight_of(const std::vector<float>& dense, int64_t rows, int64_t cols) {
  auto weight = pomona::make_weight("w", pomona::DType::kFloat32, {rows, cols},
                                    std::as_bytes(std::span(dense)));
  if (weight.is_shared() || weight.mask.kept() == 0) return weight;
  // Few weights are smaller as plain values: give them a codebook all the same.
  std::vector<float> values;
  for (const float value : dense) {
    if (value != 0) values.push_back(value);
  }
  std::vector<float> book = values;
  std::sort(book.begin(), book.end());
  book.erase(std::unique(book.begin(), book.end()), book.end());
  weight.values.clear();
  weight.codebook = book;
  for (const float value : values) {
    const auto at = std::lower_bound(book.begin(), book.end(), value) - book.begin();
    weight.codes.push_back(static_cast<uint8_t>(at));
  }
  return weight;
}

std::vector<float> random_matrix(int64_t rows, int64_t cols, double density, unsigned values) {
  std::mt19937 random(static_cast<unsigned>(rows * 31 + cols) + values);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<float> dense(static_cast<size_t>(rows * cols));
  for (auto& weight : dense) {
    if (uniform(random) < density) {
      weight = static_cast<float>(1 + random() % values) / 5 - 1.3f;
    }
  }
  return dense;
}

std::vector<float> random_x(int64_t cols) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(cols));
  for (auto& value : x) value = normal(random);
  return x;
}

std::vector<float> multiply(const std::vector<std::byte>& bytes, const std::vector<float>& x,
                            Isa isa, const float* bias = nullptr, bool has_relu = false) {
  const auto matrix = pomona::check_lut(bytes);
  const int64_t rows = matrix.header.rows;
  std::vector<float> padded(static_cast<size_t>(matrix.blocks() * pomona::kLutColumns), -7.0f);
  pomona::pad_lut_input(matrix, x, padded);
  std::vector<float> y(static_cast<size_t>(rows), -7.0f);
  pomona::multiply_lut(matrix, padded.data(), bias, has_relu, y.data(), {0, rows / 3}, isa);
  pomona::multiply_lut(matrix, padded.data(), bias, has_relu, y.data(), {rows / 3, rows}, isa);
  return y;
}

TEST(Lut, EqualsADenseProductAndItselfInEveryInstructionSet) {
  for (const int64_t rows : {1, 3, 4, 5, 9, 33}) {
    for (const int64_t cols : {1, 15, 16, 127, 128, 129, 300}) {
      for (const double density : {0.3, 1.0}) {
        const auto dense = random_matrix(rows, cols, density, 15);
        const auto bytes = pomona::pack_lut(weight_of(dense, rows, cols));
        std::vector<float> unpacked(dense.size());
        pomona::unpack_lut(pomona::check_lut(bytes), unpacked.data());
        ASSERT_EQ(unpacked, dense);
        const auto x = random_x(cols);
        const auto plain = multiply(bytes, x, Isa::kPortable);
        for (int64_t r = 0; r < rows; ++r) {
          double sum = 0, size = 0;
          for (int64_t c = 0; c < cols; ++c) {
            const double term = static_cast<double>(dense[static_cast<size_t>(r * cols + c)]) *
                                static_cast<double>(x[static_cast<size_t>(c)]);
            sum += term;
            size += std::abs(term);
          }
          ASSERT_NEAR(plain[static_cast<size_t>(r)], sum, 16 * 0x1p-24 * size + 1e-30);
        }
        for (const Isa isa : kIsas) {
          if (!pomona::has_isa(isa)) continue;
          ASSERT_EQ(multiply(bytes, x, isa), plain);
        }
      }
    }
  }
}

TEST(Lut, AddsTheBiasAndClipsBelowZero) {
  const auto bytes = pomona::pack_lut(weight_of(random_matrix(20, 50, 0.8, 9), 20, 50));
  const auto x = random_x(50);
  const std::vector<float> bias(20, -0.25f);
  const auto y = multiply(bytes, x, Isa::kBest),
             clipped = multiply(bytes, x, Isa::kBest, bias.data(), true);
  for (size_t r = 0; r < y.size(); ++r) EXPECT_EQ(clipped[r], std::max(y[r] - 0.25f, 0.0f));
}

TEST(Lut, HasInfinityAsADenseProductHasIt) {
  const std::vector<float> dense = {0, 1, 2, 1};
  const auto bytes = pomona::pack_lut(weight_of(dense, 2, 2));
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Isa isa : kIsas) {
    if (!pomona::has_isa(isa)) continue;
    const auto y = multiply(bytes, {infinity, 1}, isa);
    EXPECT_TRUE(std::isnan(y[0]));
    EXPECT_EQ(y[1], infinity);
  }
}

TEST(Lut, SaysWhyItCannot) {
  EXPECT_EQ(pomona::why_not_lut(weight_of(random_matrix(40, 40, 1.0, 17), 40, 40)),
            "it has 17 different values, more than 16");
  EXPECT_EQ(pomona::why_not_lut(weight_of(random_matrix(40, 40, 0.5, 16), 40, 40)),
            "it has 17 different values, more than 16");
  EXPECT_EQ(pomona::why_not_lut(weight_of(random_matrix(40, 40, 1.0, 16), 40, 40)), "");
}

TEST(CheckLut, RefusesOtherBytes) {
  const auto good = pomona::pack_lut(weight_of(random_matrix(3, 130, 1.0, 9), 3, 130));
  pomona::check_lut(good);
  const auto refuses = [&](size_t at, int value, const std::string& words) {
    auto bytes = good;
    bytes[at] = static_cast<std::byte>(value);
    try {
      pomona::check_lut(bytes);
      ADD_FAILURE() << "accepted";
    } catch (const pomona::InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  refuses(0, 1, "to begin with the bytes \"pmpk\"");
  refuses(4, 1, "of layout lut (4), got 1");
  refuses(5, 9, "of version 1, got 9");
  refuses(15, 0xff, "with rows that fit it");
  refuses(23, 0xff, "with cols that fit it");
  refuses(8, 4, "bytes, got");
  refuses(31, 0x80, "with nnz of its shape");
  for (size_t size = 0; size < good.size(); size += 61) {
    EXPECT_THROW(pomona::check_lut(std::span(good).first(size)), pomona::InvalidArgument);
  }
}

}  // namespace
