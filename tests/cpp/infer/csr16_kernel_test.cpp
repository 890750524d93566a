#include "infer/csr16_kernel.h"

#include "pomona/error.h"
#include "pomona/packed.h"

#include "error_of.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <vector>

namespace {

using pomona::check_packed;
using pomona::Csr16Header;
using pomona::DType;
using pomona::InvalidArgument;
using pomona::make_weight;
using pomona::pack;
using pomona::Packed;
using pomona::Weight;
using pomona::testing::error_of;

struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;  // row-major
};

Weight to_weight(const Matrix& matrix) {
  return make_weight("fc.weight", DType::kFloat32, {matrix.rows, matrix.cols},
                     std::as_bytes(std::span(matrix.values)));
}

// Nonzeros at random; of `distinct` values, or all different when it is 0.
Matrix random_matrix(int64_t rows, int64_t cols, double density, int distinct = 0) {
  std::mt19937_64 random(static_cast<uint64_t>(rows * 1000 + cols) + 7);
  std::uniform_real_distribution<double> unit(0, 1);
  std::normal_distribution<float> normal;
  std::vector<float> palette(static_cast<size_t>(distinct));
  for (float& value : palette) value = normal(random);
  Matrix matrix{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols))};
  for (float& value : matrix.values) {
    if (unit(random) >= density) continue;
    value = distinct == 0 ? normal(random) : palette[random() % palette.size()];
  }
  return matrix;
}

std::vector<float> random_vector(int64_t size) {
  std::mt19937_64 random(static_cast<uint64_t>(size) + 3);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = normal(random);
  return values;
}

// |y - x W^T| stays within a few roundings of the sum of |w x|, in double.
void expect_product(const Matrix& matrix, const std::vector<float>& x, int64_t batch,
                    const std::vector<float>& y) {
  ASSERT_EQ(static_cast<int64_t>(y.size()), batch * matrix.rows);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t r = 0; r < matrix.rows; ++r) {
      double sum = 0, magnitude = 0;
      for (int64_t c = 0; c < matrix.cols; ++c) {
        const double term =
            static_cast<double>(matrix.values[static_cast<size_t>(r * matrix.cols + c)]) *
            static_cast<double>(x[static_cast<size_t>(b * matrix.cols + c)]);
        sum += term;
        magnitude += std::abs(term);
      }
      const double tolerance = magnitude * std::numeric_limits<float>::epsilon() *
                               std::max(4.0, 0.5 * std::sqrt(static_cast<double>(matrix.cols)));
      ASSERT_NEAR(y[static_cast<size_t>(b * matrix.rows + r)], sum, tolerance)
          << "row " << r << " of " << matrix.rows << "x" << matrix.cols << ", batch " << b;
    }
  }
}

std::vector<float> multiply(const Packed& packed, const std::vector<float>& x, int64_t batch) {
  std::vector<float> y(static_cast<size_t>(batch * packed.rows), -1.0f);
  pomona::multiply(packed.bytes, x, batch, y);
  return y;
}

void expect_multiplies(const Matrix& matrix, int64_t batch) {
  const auto packed = pack(to_weight(matrix));
  check_packed(packed.bytes);
  const auto x = random_vector(batch * matrix.cols);
  expect_product(matrix, x, batch, multiply(packed, x, batch));
}

TEST(Csr16, EqualsTheDenseProductAtEverySizeFrom1To65) {
  for (int64_t size = 1; size <= 65; ++size) {
    expect_multiplies(random_matrix(size, 66 - size, 0.3), 1);
    expect_multiplies(random_matrix(66 - size, size, 0.3, 15), 2);
  }
}

TEST(Csr16, EqualsTheDenseProductAtEveryBatch) {
  for (const int64_t batch : {0, 1, 2, 3, 7, 8, 9, 16, 19}) {
    expect_multiplies(random_matrix(33, 65, 0.2, 31), batch);
    expect_multiplies(random_matrix(33, 65, 0.2), batch);
  }
}

TEST(Csr16, EqualsTheDenseProductWhenNothingOrEverythingIsKept) {
  for (const double density : {0.0, 1.0}) {
    expect_multiplies(random_matrix(17, 64, density), 3);
    expect_multiplies(random_matrix(17, 64, density, 4), 3);
  }
}

TEST(Csr16, EqualsTheDenseProductWithOneNonzero) {
  for (const size_t at : {size_t{0}, size_t{63}, size_t{64}, size_t{9 * 65 - 1}}) {
    Matrix matrix{9, 65, std::vector<float>(9 * 65)};
    matrix.values[at] = 2.5f;
    expect_multiplies(matrix, 1);
  }
}

TEST(Csr16, EqualsTheDenseProductWithEmptyRowsAndColumns) {
  auto matrix = random_matrix(20, 30, 0.5);
  for (int64_t i = 0; i < 20 * 30; ++i) {
    if (i / 30 % 3 == 0 || i % 30 % 4 == 1) matrix.values[static_cast<size_t>(i)] = 0;
  }
  expect_multiplies(matrix, 5);
}

TEST(Csr16, EqualsTheDenseProductWithoutRowsOrColumns) {
  expect_multiplies(Matrix{0, 5, {}}, 2);
  expect_multiplies(Matrix{5, 0, {}}, 2);
  expect_multiplies(Matrix{0, 0, {}}, 2);
}

TEST(Csr16, SplitsAWideMatrixIntoPanels) {
  EXPECT_EQ(pomona::csr16_panels(0), 1);
  EXPECT_EQ(pomona::csr16_panels(65536), 1);
  EXPECT_EQ(pomona::csr16_panels(65537), 2);
  for (const int64_t cols : {65535, 65536, 65537, 70000, 131073}) {
    auto matrix = random_matrix(3, cols, 0.01, 31);
    matrix.values.back() = 1.0f;  // the very last column
    matrix.values[65535 % matrix.values.size()] = 1.0f;
    expect_multiplies(matrix, 1);
    expect_multiplies(matrix, 4);
  }
}

TEST(Csr16, GivesTheSameBitsAloneAndInABatch) {
  const auto matrix = random_matrix(31, 257, 0.4);
  const auto packed = pack(to_weight(matrix));
  const auto x = random_vector(13 * 257);
  const auto together = multiply(packed, x, 13);
  for (int64_t b = 0; b < 13; ++b) {
    const std::vector<float> row(x.begin() + b * 257, x.begin() + (b + 1) * 257);
    const std::vector<float> want(together.begin() + b * 31, together.begin() + (b + 1) * 31);
    EXPECT_EQ(multiply(packed, row, 1), want) << "row " << b;
  }
}

TEST(Csr16, SumsInFourAccumulatorsByColumn) {
  // 1e8 and -1e8 meet in accumulator 0; in plain column order the ones would be lost.
  const Matrix matrix{1, 6, {1e8f, 1.0f, 1.0f, 1.0f, -1e8f, 1.0f}};
  EXPECT_EQ(multiply(pack(to_weight(matrix)), {1, 1, 1, 1, 1, 1}, 1), std::vector<float>{4.0f});
}

TEST(Csr16, HasInfinityInXAsADenseProductHasIt) {
  const Matrix matrix{3, 2, {0.0f, 3.0f, 1.0f, 0.0f, 2.0f, 5.0f}};
  const float infinity = std::numeric_limits<float>::infinity();
  const auto y = multiply(pack(to_weight(matrix)), {infinity, 2.0f}, 1);
  EXPECT_TRUE(std::isnan(y[0]));  // 0 * Inf
  EXPECT_EQ(y[1], infinity);
  EXPECT_EQ(y[2], infinity);
}

TEST(Csr16, AddsTheBiasLast) {
  const Matrix matrix{2, 3, {1.0f, 0.0f, 2.0f, 0.0f, 0.0f, 0.0f}};
  const auto packed = pack(to_weight(matrix));
  const std::vector<float> x = {1, 10, 100}, bias = {0.5f, -0.5f};
  std::vector<float> y(2);
  pomona::multiply_csr16(pomona::view_csr16(packed.bytes), x.data(), 1, bias.data(), y.data(),
                         {0, 2});
  EXPECT_EQ(y, (std::vector<float>{201.5f, -0.5f}));
}

TEST(Csr16, PartsCoverEveryRowOnceAndShareTheWork) {
  for (const int64_t rows : {0, 1, 7, 100}) {
    const auto packed = pack(to_weight(random_matrix(rows, 50, 0.5)));
    const auto view = pomona::view_csr16(packed.bytes);
    for (const int64_t parts : {1, 2, 3, 16, 200}) {
      int64_t next = 0;
      for (int64_t part = 0; part < parts; ++part) {
        const auto range = pomona::csr16_part(view, part, parts);
        EXPECT_EQ(range.first, next);
        EXPECT_GE(range.last, range.first);
        EXPECT_LE(view.row_starts[range.last] - view.row_starts[range.first],
                  (view.nnz + rows) / parts + 100);
        next = range.last;
      }
      EXPECT_EQ(next, rows);
    }
  }
}

TEST(Csr16, StoresThreeBytesANonzeroWhenShared) {
  const auto matrix = random_matrix(64, 1024, 0.25, 15);
  const auto packed = pack(to_weight(matrix));
  const auto size = static_cast<int64_t>(packed.bytes.size());
  const int64_t bare = 80 + 65 * 8 + packed.nnz * 3 + 15 * 4;
  EXPECT_GE(size, bare);
  EXPECT_LE(size, bare + 4 * 15);  // padding of four sections
}

TEST(Csr16, UnpacksToTheDenseMatrix) {
  for (const auto& matrix : {random_matrix(5, 70000, 0.01, 15), random_matrix(13, 31, 0.3),
                             random_matrix(4, 8, 0.0), Matrix{3, 0, {}}}) {
    EXPECT_EQ(pomona::unpack(pack(to_weight(matrix)).bytes), matrix.values);
  }
}

// Rounds through the 16-bit type and packs it: the widened values must come back exactly.
TEST(Csr16, WidensHalfPrecisionExactly) {
  const std::vector<uint16_t> bits = {0x3c00, 0xc000, 0x0001, 0x8001, 0x03ff, 0x7bff, 0x0400, 0};
  const auto bytes = std::as_bytes(std::span(bits));
  const auto half = pack(make_weight("w", DType::kFloat16, {1, 8}, bytes));
  EXPECT_EQ(pomona::unpack(half.bytes),
            (std::vector<float>{1.0f, -2.0f, 0x1p-24f, -0x1p-24f, 0x1.ff8p-15f, 65504.0f, 0x1p-14f,
                                0.0f}));
  const std::vector<uint16_t> brain = {0x3f80, 0xc000, 0x0001, 0};
  const auto bfloat =
      pack(make_weight("w", DType::kBFloat16, {1, 4}, std::as_bytes(std::span(brain))));
  EXPECT_EQ(pomona::unpack(bfloat.bytes), (std::vector<float>{1.0f, -2.0f, 0x1p-133f, 0.0f}));
}

TEST(Csr16, DropsTheNegativeZerosOfAMultipliedMask) {
  const Matrix plain{2, 2, {-0.0f, 3.0f, 1.5f, -0.0f}};
  EXPECT_EQ(pack(to_weight(plain)).nnz, 2);
  auto shared = random_matrix(32, 32, 0.5, 3);
  for (float& value : shared.values) value = value == 0 ? -0.0f : value;
  const auto weight = to_weight(shared);
  ASSERT_TRUE(weight.is_shared());
  const auto packed = pack(weight);
  check_packed(packed.bytes);
  EXPECT_LT(packed.nnz, 32 * 32);
  EXPECT_EQ(pomona::unpack(packed.bytes), shared.values);  // -0.0 == 0.0
  expect_multiplies(shared, 3);
}

TEST(Csr16, DescribesItself) {
  const auto packed = pack(to_weight(random_matrix(6, 9, 0.5)));
  const auto again = check_packed(packed.bytes);
  EXPECT_EQ(pomona::layout_name(again.layout), "csr16");
  EXPECT_EQ(again.rows, 6);
  EXPECT_EQ(again.cols, 9);
  EXPECT_EQ(again.nnz, packed.nnz);
  EXPECT_EQ(again.bytes, packed.bytes);
}

// The message holds these words.
void expect_contains(const std::string& message, const std::string& words) {
  EXPECT_NE(message.find(words), std::string::npos) << message << "\nlacks: " << words;
}

TEST(Pack, RefusesAnotherDtype) {
  const std::vector<double> values = {1.0};
  const auto weight =
      make_weight("fc.weight", DType::kFloat64, {1, 1}, std::as_bytes(std::span(values)));
  EXPECT_EQ(error_of([&] { pack(weight); }),
            "pack: expected `fc.weight` to be float32, float16 or bfloat16, got float64.");
}

TEST(Pack, RefusesAnotherNumberOfDimensions) {
  const std::vector<float> values = {1.0f, 2.0f};
  const auto weight = make_weight("", DType::kFloat32, {2}, std::as_bytes(std::span(values)));
  EXPECT_EQ(error_of([&] { pack(weight); }),
            "pack: expected the weight to have 2 dimensions [rows, cols], got 1.");
}

TEST(Pack, RefusesNaNAndInfinityOfEveryDtype) {
  const std::string message = "pack: expected `fc.weight` to be finite, got NaN or Inf.";
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    Matrix few{1, 2, {bad, 1.0f}};
    EXPECT_EQ(error_of([&] { pack(to_weight(few)); }), message);
    auto many = random_matrix(32, 32, 1.0);
    many.values[5] = bad;
    EXPECT_EQ(error_of([&] { pack(to_weight(many)); }), message);
  }
  for (const auto& [dtype, bits] : {std::pair{DType::kFloat16, uint16_t{0xfc00}},
                                    std::pair{DType::kBFloat16, uint16_t{0x7fc1}}}) {
    const std::vector<uint16_t> values = {bits, 0};
    const auto weight = make_weight("fc.weight", dtype, {1, 2}, std::as_bytes(std::span(values)));
    EXPECT_EQ(error_of([&] { pack(weight); }), message);
  }
}

TEST(Pack, RefusesAnUnknownLayout) {
  EXPECT_EQ(error_of([] {
              pack(to_weight({1, 1, {1.0f}}), {.layout = static_cast<pomona::Layout>(9)});
            }),
            "layout_name: expected a layout, got 9.");
}

// The error after `damage` was done to a good buffer.
std::string error_after(const std::function<void(std::vector<std::byte>&)>& damage) {
  auto bytes = pack(to_weight(random_matrix(6, 9, 0.5, 4))).bytes;
  damage(bytes);
  return error_of([&] { check_packed(bytes); });
}

template <class T>
void put(std::vector<std::byte>& bytes, int64_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

Csr16Header header_of(const std::vector<std::byte>& bytes) {
  Csr16Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}

TEST(CheckPacked, RefusesAHeaderThatPackDidNotWrite) {
  using Bytes = std::vector<std::byte>;
  const std::vector<std::tuple<std::string, std::function<void(Bytes&)>>> cases = {
      {"of at least 80 bytes, got 79", [](Bytes& b) { b.resize(79); }},
      {"to begin with the bytes \"pmpk\"", [](Bytes& b) { put<uint32_t>(b, 0, 1); }},
      {"of layout csr16 (1), got 9", [](Bytes& b) { put<uint8_t>(b, 4, 9); }},
      {"of version 1, got 2", [](Bytes& b) { put<uint8_t>(b, 5, 2); }},
      {"bytes, as its header says", [](Bytes& b) { b.push_back({}); }},
      {"bytes, as its header says", [](Bytes& b) { b.pop_back(); }},
      {"with rows of at least 0, got -1", [](Bytes& b) { put<int64_t>(b, 8, -1); }},
      {"with cols of at least 0, got -1", [](Bytes& b) { put<int64_t>(b, 16, -1); }},
      {"with nnz of at least 0, got -1", [](Bytes& b) { put<int64_t>(b, 24, -1); }},
      {"with centroids in 0..256, got 257", [](Bytes& b) { put<int64_t>(b, 32, 257); }},
      {"bytes for its rows, cols and nnz", [](Bytes& b) { put<int64_t>(b, 8, 600); }},
      {"bytes for its rows, cols and nnz", [](Bytes& b) { put<int64_t>(b, 8, INT64_MAX); }},
      {"bytes for its rows, cols and nnz", [](Bytes& b) { put<int64_t>(b, 24, INT64_MAX / 2); }},
      {"with the section offsets", [](Bytes& b) { put<int64_t>(b, 48, 1 << 20); }},
  };
  for (const auto& [message, damage] : cases) {
    expect_contains(error_after(damage), message);
  }
}

TEST(CheckPacked, RefusesIndicesOutOfRange) {
  const auto damage = [](auto member, int64_t offset, auto value) {
    return [=](std::vector<std::byte>& b) { put(b, header_of(b).*member + offset, value); };
  };
  expect_contains(error_after(damage(&Csr16Header::row_starts_at, 0, int64_t{1})),
                  "with row_starts from 0, got 1");
  expect_contains(error_after(damage(&Csr16Header::row_starts_at, 8, int64_t{1} << 40)),
                  "with row_starts[2] of at least");
  expect_contains(error_after(damage(&Csr16Header::row_starts_at, 48, int64_t{1} << 40)),
                  "with row_starts up to nnz");
  expect_contains(error_after(damage(&Csr16Header::columns_at, 0, uint16_t{9})),
                  "with columns[0] above -1 and below 9, got 9");
  expect_contains(error_after(damage(&Csr16Header::weights_at, 3, uint8_t{4})),
                  "with codes[3] below 4, got 4");
}

TEST(CheckPacked, RefusesABufferThatIsNotAligned) {
  const auto packed = pack(to_weight(random_matrix(6, 9, 0.5)));
  std::vector<std::byte> bytes(packed.bytes.size() + 8);
  std::ranges::copy(packed.bytes, bytes.begin() + 1);
  expect_contains(error_of([&] { check_packed(std::span(bytes).subspan(1, packed.bytes.size())); }),
                  "to begin at a multiple of 8 bytes, got 1 past one");
}

}  // namespace
