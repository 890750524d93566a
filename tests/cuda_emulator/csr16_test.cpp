// cuda/infer/csr16_kernel.cuh in the emulator, against the dense product in double.

#include "cuda_emulator/every_order.h"
#include "infer/csr16_kernel.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace pomona::emulator {
namespace {

struct Example {
  int64_t rows, cols;
  std::vector<float> dense;
  std::vector<std::byte> packed;
};

// A random matrix, about `density` of it not zero, of few distinct values or of many.
Example make_example(int64_t rows, int64_t cols, double density, bool is_shared) {
  std::mt19937_64 rng(static_cast<uint64_t>(rows * 1000 + cols));
  Example example{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols)), {}};
  for (auto& value : example.dense) {
    if (static_cast<double>(rng() % 1000) >= density * 1000) continue;
    value = is_shared ? static_cast<float>(rng() % 15 + 1) / 8.0f - 1.0625f
                      : static_cast<float>(rng() % 100000 + 1) / 65536.0f;
  }
  const auto weight =
      make_weight("w", DType::kFloat32, {rows, cols}, std::as_bytes(std::span(example.dense)));
  EXPECT_EQ(weight.is_shared(), is_shared);
  example.packed = pack_csr16(weight);
  return example;
}

std::vector<float> random_floats(int64_t count, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (auto& value : values) value = static_cast<float>(rng() % 4001) / 2000.0f - 1.0f;
  return values;
}

Csr16Buffer buffer_of(const std::vector<std::byte>& packed, int64_t rows, int64_t cols) {
  return {.bytes = packed.data(),
          .size = static_cast<int64_t>(packed.size()),
          .rows = rows,
          .cols = cols,
          .panels = csr16_panels(cols)};
}

class Csr16Kernel : public InEveryOrder {
 protected:
  std::vector<float> multiply(const std::vector<std::byte>& packed, int64_t rows, int64_t cols,
                              const std::vector<float>& x, int64_t batch,
                              const std::vector<float>& bias) {
    std::vector<float> y(static_cast<size_t>(batch * rows));
    launch_csr16_multiply(launcher(), Csr16Product{.weight = buffer_of(packed, rows, cols),
                                                   .x = x.data(),
                                                   .batch = batch,
                                                   .bias = bias.empty() ? nullptr : bias.data(),
                                                   .y = y.data()});
    return y;
  }

  std::vector<float> unpack(const std::vector<std::byte>& packed, int64_t rows, int64_t cols) {
    std::vector<float> dense(static_cast<size_t>(rows * cols));
    launch_csr16_unpack(launcher(), buffer_of(packed, rows, cols), dense.data());
    return dense;
  }

  void expect_product(const Example& w, int64_t batch, bool has_bias) {
    const auto x = random_floats(batch * w.cols, 1);
    const auto bias = has_bias ? random_floats(w.rows, 2) : std::vector<float>();
    const auto y = multiply(w.packed, w.rows, w.cols, x, batch, bias);
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t r = 0; r < w.rows; ++r) {
        double sum = has_bias ? double{bias[static_cast<size_t>(r)]} : 0.0, size = std::fabs(sum);
        for (int64_t c = 0; c < w.cols; ++c) {
          const double term = double{w.dense[static_cast<size_t>(r * w.cols + c)]} *
                              double{x[static_cast<size_t>(b * w.cols + c)]};
          sum += term;
          size += std::fabs(term);
        }
        ASSERT_NEAR(double{y[static_cast<size_t>(b * w.rows + r)]}, sum, 1e-6 * size)
            << "batch " << b << " row " << r << " of " << w.rows << "x" << w.cols;
      }
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Order, Csr16Kernel, every_order(), order_name);

TEST_P(Csr16Kernel, EqualsTheDenseProductOfASharedMatrix) {
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{7, 31}, {8, 32}, {9, 33}, {17, 300}}) {
    expect_product(make_example(rows, cols, 0.3, true), 1, false);
    expect_product(make_example(rows, cols, 0.3, true), 3, true);
  }
}

TEST_P(Csr16Kernel, EqualsTheDenseProductOfAMatrixWithoutACodebook) {
  expect_product(make_example(20, 150, 0.5, false), 1, true);
  expect_product(make_example(20, 150, 0.5, false), 8, false);
}

TEST_P(Csr16Kernel, EqualsTheDenseProductForBatchesAroundATile) {
  const auto example = make_example(5, 64, 0.4, true);
  for (const int64_t batch : {2, 7, 8, 9, 17}) expect_product(example, batch, true);
}

TEST_P(Csr16Kernel, ReadsColumnsOfLaterPanels) {
  const auto example = make_example(3, 65536 + 40, 0.002, true);
  expect_product(example, 2, true);
  EXPECT_EQ(unpack(example.packed, example.rows, example.cols), example.dense);
}

TEST_P(Csr16Kernel, UnpacksTheMatrixExactly) {
  for (const bool is_shared : {true, false}) {
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{9, 33}, {40, 31}, {8, 200}}) {
      const auto example = make_example(rows, cols, 0.5, is_shared);
      EXPECT_EQ(unpack(example.packed, rows, cols), example.dense);
    }
  }
}

TEST_P(Csr16Kernel, GathersRowsAndGivesNanForOthers) {
  const auto example = make_example(9, 33, 0.5, true);
  const std::vector<int64_t> indices{8, 0, 3, 3, 9, -1, 5};
  std::vector<float> rows(indices.size() * 33);
  launch_csr16_gather(launcher(), buffer_of(example.packed, 9, 33), indices.data(),
                      static_cast<int64_t>(indices.size()), rows.data());
  for (size_t i = 0; i < indices.size(); ++i) {
    const bool is_there = indices[i] >= 0 && indices[i] < 9;
    for (size_t c = 0; c < 33; ++c) {
      if (is_there) {
        ASSERT_EQ(rows[i * 33 + c], example.dense[static_cast<size_t>(indices[i]) * 33 + c]);
      } else {
        ASSERT_TRUE(std::isnan(rows[i * 33 + c]));
      }
    }
  }
  launch_csr16_gather(launcher(), buffer_of(example.packed, 9, 32), indices.data(), 1, rows.data());
  EXPECT_TRUE(std::isnan(rows[31]));
}

TEST_P(Csr16Kernel, ServesMoreRowsThanItsGridHas) {
  const auto example = make_example(21, 50, 0.3, true);
  std::vector<float> dense(example.dense.size());
  launch(schedule(), 1, kCsr16Threads, &csr16_unpack_kernel,
         buffer_of(example.packed, example.rows, example.cols), dense.data());
  EXPECT_EQ(dense, example.dense);
  const auto x = random_floats(20 * 50, 6);
  std::vector<float> y(20 * 21), of_one_block(20 * 21);
  Csr16Product product{.weight = buffer_of(example.packed, 21, 50), .x = x.data(), .batch = 20};
  product.y = y.data();
  launch_csr16_multiply(launcher(), product);
  product.y = of_one_block.data();
  launch(schedule(), 1, kCsr16Threads, &csr16_multiply_kernel<kCsr16BatchTile>, product);
  EXPECT_EQ(y, of_one_block);
}

TEST_P(Csr16Kernel, GivesTheBiasWhereRowsAreEmpty) {
  auto example = make_example(9, 40, 0.2, true);
  for (size_t i = 0; i < 80; ++i) example.dense[i] = 0;  // rows 0 and 1
  example.packed = pack_csr16(
      make_weight("w", DType::kFloat32, {9, 40}, std::as_bytes(std::span(example.dense))));
  expect_product(example, 1, true);
}

TEST_P(Csr16Kernel, ReachesOnlyTheRowsThatReadANaN) {
  const std::vector<float> dense{0, 2, 3, 0, 0, 0};  // 3 x 2
  const auto packed =
      pack_csr16(make_weight("w", DType::kFloat32, {3, 2}, std::as_bytes(std::span(dense))));
  const auto y = multiply(packed, 3, 2, {NAN, 1.0f}, 1, {});
  EXPECT_EQ(y[0], 2.0f);
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_EQ(y[2], 0.0f);
}

TEST_P(Csr16Kernel, GivesNaNForABufferOfAnotherMatrix) {
  const auto example = make_example(9, 40, 0.2, true);
  const auto x = random_floats(2 * 50, 3);
  const auto expect_nan = [&](const std::vector<std::byte>& packed, int64_t rows, int64_t cols) {
    for (const float value : multiply(packed, rows, cols, x, 2, {})) {
      EXPECT_TRUE(std::isnan(value));
    }
    for (const float value : unpack(packed, rows, cols)) EXPECT_TRUE(std::isnan(value));
  };
  expect_nan(example.packed, 10, 40);
  expect_nan(example.packed, 9, 41);
  const std::vector<std::byte> cut(example.packed.begin(), example.packed.end() - 16);
  expect_nan(cut, 9, 40);
  auto other = example.packed;
  other[0] = std::byte{0};
  expect_nan(other, 9, 40);
}

TEST_P(Csr16Kernel, DoesNotLaunchForNothing) {
  const auto example = make_example(3, 8, 0.5, true);
  multiply(example.packed, 3, 8, {}, 0, {});
  const auto no_rows = pack_csr16(make_weight("w", DType::kFloat32, {0, 8}, {}));
  multiply(no_rows, 0, 8, std::vector<float>(8), 1, {});
  unpack(no_rows, 0, 8);
  EXPECT_EQ(launches(), 0);
}

}  // namespace
}  // namespace pomona::emulator
