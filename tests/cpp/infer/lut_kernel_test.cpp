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
using pomona::PackedForm;
using pomona::Precision;

constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni,
                         Isa::kAvx512BFloat16};

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

// Of `values` different values, all of them exact in bfloat16.
std::vector<float> random_matrix(int64_t rows, int64_t cols, double density, unsigned values) {
  std::mt19937 random(static_cast<unsigned>(rows * 31 + cols) + values);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<float> dense(static_cast<size_t>(rows * cols));
  for (auto& weight : dense) {
    if (uniform(random) >= density) continue;
    const auto k = static_cast<int>(random() % values) - static_cast<int>(values) / 2;
    weight = static_cast<float>(2 * k + 1) / 16;
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
  std::vector<std::byte> plane(static_cast<size_t>(pomona::lut_input_bytes(matrix)), std::byte{7});
  const auto input = pomona::make_lut_input(matrix, x, plane, isa);
  std::vector<float> y(static_cast<size_t>(rows), -7.0f);
  pomona::multiply_lut(matrix, input, bias, has_relu, y.data(), {0, rows / 3}, isa);
  pomona::multiply_lut(matrix, input, bias, has_relu, y.data(), {rows / 3, rows}, isa);
  return y;
}

struct Arithmetic {
  PackedForm form;
  Precision precision;
};
constexpr Arithmetic kFloats{PackedForm::kFloat32, Precision::kFloat32};
constexpr Arithmetic kPairs{PackedForm::kBFloat16, Precision::kFloat32};
constexpr Arithmetic kHalves{PackedForm::kBFloat16, Precision::kBFloat16};
constexpr Arithmetic kBytes{PackedForm::kBytes, Precision::kInt8};

std::vector<std::byte> pack(const std::vector<float>& dense, int64_t rows, int64_t cols,
                            Arithmetic arithmetic = kFloats) {
  return pomona::pack_lut(weight_of(dense, rows, cols), arithmetic.form, arithmetic.precision);
}

// How far a row may be from the dense product.
double bound(Arithmetic arithmetic, double size, double largest_w, double sum_x, double largest_x,
             double sum_w) {
  if (arithmetic.form == PackedForm::kFloat32) return 16 * 0x1p-24 * size + 1e-30;
  if (arithmetic.form == PackedForm::kBFloat16) {
    return (arithmetic.precision == Precision::kFloat32 ? 0x1p-15 : 0x1p-8) * size + 1e-30;
  }
  // Half a step of the codebook for every x, half a step of x for every weight.
  return 1.01 * (largest_w / 127 / 2 * sum_x + largest_x / 127 / 2 * sum_w) + 1e-6;
}

void expect_products(const std::vector<float>& dense, int64_t rows, int64_t cols,
                     Arithmetic arithmetic) {
  const auto bytes = pack(dense, rows, cols, arithmetic);
  std::vector<float> unpacked(dense.size());
  pomona::unpack_lut(pomona::check_lut(bytes), unpacked.data());
  ASSERT_EQ(unpacked, dense);
  const auto x = random_x(cols);
  const auto plain = multiply(bytes, x, Isa::kPortable);
  double largest_w = 0, largest_x = 0, sum_x = 0;
  for (const float w : dense) largest_w = std::max(largest_w, std::abs(static_cast<double>(w)));
  for (const float value : x) {
    largest_x = std::max(largest_x, std::abs(static_cast<double>(value)));
    sum_x += std::abs(static_cast<double>(value));
  }
  std::vector<double> bounds;
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0, size = 0, sum_w = 0;
    for (int64_t c = 0; c < cols; ++c) {
      const auto w = static_cast<double>(dense[static_cast<size_t>(r * cols + c)]);
      const double term = w * static_cast<double>(x[static_cast<size_t>(c)]);
      sum += term;
      size += std::abs(term);
      sum_w += std::abs(w);
    }
    bounds.push_back(bound(arithmetic, size, largest_w, sum_x, largest_x, sum_w));
    ASSERT_NEAR(plain[static_cast<size_t>(r)], sum, bounds.back());
  }
  for (const Isa isa : kIsas) {
    if (!pomona::has_isa(isa)) continue;
    const auto y = multiply(bytes, x, isa);
    if (arithmetic.form != PackedForm::kBFloat16) {
      ASSERT_EQ(y, plain);
      continue;
    }
    for (size_t r = 0; r < y.size(); ++r) ASSERT_NEAR(y[r], plain[r], bounds[r]);
  }
}

TEST(Lut, EqualsADenseProductAndItselfInEveryInstructionSet) {
  for (const unsigned values : {3u, 15u, 200u}) {
    for (const int64_t rows : {1, 3, 4, 5, 33}) {
      for (const int64_t cols : {1, 15, 16, 63, 64, 65, 127, 128, 129, 256, 257, 300}) {
        for (const double density : {0.3, 1.0}) {
          const auto dense = random_matrix(rows, cols, density, values);
          for (const auto arithmetic : {kFloats, kPairs, kHalves, kBytes}) {
            const auto weight = weight_of(dense, rows, cols);
            if (!pomona::why_not_lut(weight, arithmetic.form, arithmetic.precision).empty())
              continue;
            expect_products(dense, rows, cols, arithmetic);
          }
        }
      }
    }
  }
}

TEST(Lut, TakesAsFewBitsAsItCan) {
  const auto bits = [](unsigned values, double density) {
    const auto bytes = pack(random_matrix(40, 40, density, values), 40, 40);
    return static_cast<int>(pomona::check_lut(bytes).header.bits);
  };
  EXPECT_EQ(bits(3, 0.5), 2);
  EXPECT_EQ(bits(4, 1.0), 2);
  EXPECT_EQ(bits(4, 0.5), 4);
  EXPECT_EQ(bits(16, 1.0), 4);
  EXPECT_EQ(bits(16, 0.5), 8);
  EXPECT_EQ(bits(200, 0.5), 8);
}

TEST(Lut, AddsTheBiasAndClipsBelowZero) {
  for (const auto arithmetic : {kFloats, kPairs, kBytes}) {
    const auto bytes = pack(random_matrix(20, 50, 0.8, 9), 20, 50, arithmetic);
    const auto x = random_x(50);
    const std::vector<float> bias(20, -0.25f);
    const auto y = multiply(bytes, x, Isa::kBest),
               clipped = multiply(bytes, x, Isa::kBest, bias.data(), true);
    for (size_t r = 0; r < y.size(); ++r) EXPECT_EQ(clipped[r], std::max(y[r] - 0.25f, 0.0f));
  }
}

TEST(Lut, HasInfinityAsADenseProductHasIt) {
  const std::vector<float> dense = {0, 1, 2, 1};
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto arithmetic : {kFloats, kPairs, kHalves, kBytes}) {
    const auto bytes = pack(dense, 2, 2, arithmetic);
    for (const Isa isa : kIsas) {
      if (!pomona::has_isa(isa)) continue;
      const auto y = multiply(bytes, {infinity, 1}, isa);
      EXPECT_TRUE(std::isnan(y[0]));
      EXPECT_EQ(y[1], infinity);
    }
  }
}

TEST(Lut, KeepsDenormalInputs) {
  const std::vector<float> x = {0x1p-130f, 0};
  for (const auto arithmetic : {kFloats, kPairs, kHalves}) {
    const auto y = multiply(pack({0, 1, 2, 1}, 2, 2, arithmetic), x, Isa::kBest);
    EXPECT_EQ(y, (std::vector<float>{0, 0x1p-129f}));
  }
}

TEST(Lut, SaysWhyItCannot) {
  const auto why_not = [](const pomona::Weight& weight, Arithmetic arithmetic) {
    return pomona::why_not_lut(weight, arithmetic.form, arithmetic.precision);
  };
  const auto wide = weight_of(random_matrix(40, 40, 0.5, 16), 40, 40);
  EXPECT_EQ(why_not(wide, kFloats), "");
  EXPECT_EQ(why_not(wide, kBytes), "");
  EXPECT_EQ(why_not(wide, kPairs), "it has 17 different values, more than 16");
  EXPECT_EQ(why_not(weight_of(random_matrix(40, 40, 1.0, 16), 40, 40), kPairs), "");
  const auto uneven = weight_of({0.1f, 0.2f}, 1, 2);
  EXPECT_EQ(why_not(uneven, kPairs), "its values are not normal numbers of bfloat16");
  EXPECT_EQ(why_not(uneven, kHalves), "");
  EXPECT_EQ(why_not(weight_of({0x1p-130f, 1}, 1, 2), kPairs),
            "its values are not normal numbers of bfloat16");
  EXPECT_EQ(why_not(uneven, {PackedForm::kBytes, Precision::kFixed16}),
            "lut does not compute in fixed16");
  const int64_t cols = pomona::kLutMostColumns + 1;
  EXPECT_EQ(why_not(weight_of(std::vector<float>(static_cast<size_t>(cols), 1), 1, cols), kBytes),
            "it has 524289 columns, more than 524288");
  std::vector<float> all(300);
  for (size_t i = 0; i < all.size(); ++i) all[i] = 1 / static_cast<float>(i + 1);
  EXPECT_EQ(why_not(pomona::make_weight("w", pomona::DType::kFloat32, {1, 300},
                                        std::as_bytes(std::span(all))),
                    kFloats),
            "it has more than 256 different values");
}

TEST(Lut, AddsAsManyBytesAsItTakes) {
  const int64_t cols = pomona::kLutMostColumns;
  const std::vector<float> dense(static_cast<size_t>(cols), 3.0f), x(static_cast<size_t>(cols), 2);
  const auto bytes = pack(dense, 1, cols, kBytes);
  for (const Isa isa : kIsas) {
    if (!pomona::has_isa(isa)) continue;
    EXPECT_NEAR(multiply(bytes, x, isa)[0], 6 * cols, 1);
  }
}

TEST(CheckLut, RefusesOtherBytes) {
  const auto good = pack(random_matrix(3, 130, 1.0, 9), 3, 130);
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
  refuses(5, 9, "of version 2, got 9");
  refuses(6, 3, "with 2, 4 or 8 bits of a code, got 3");
  refuses(7, 3, "with a form from 0 to 2, got 3");
  refuses(7, 2, "with a precision of its form, got 0");
  refuses(40, 1, "with a precision of its form, got 1");
  refuses(40, 9, "with a precision of its form, got 9");
  refuses(15, 0xff, "with rows that fit it");
  refuses(23, 0xff, "with cols that fit it");
  refuses(8, 4, "bytes, got");
  refuses(31, 0x80, "with nnz of its shape");
  for (size_t size = 0; size < good.size(); size += 61) {
    EXPECT_THROW(pomona::check_lut(std::span(good).first(size)), pomona::InvalidArgument);
  }
}

}  // namespace
