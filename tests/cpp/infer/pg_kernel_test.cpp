// Compiled twice: for this machine, and with tests/isa_emulator, where every instruction set is
// there.

#include "infer/pg_kernel.h"

#include "pomona/error.h"

#include "base/float16.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace {

using pomona::Isa;
using pomona::PackedForm;
using pomona::PgEffort;
using pomona::PgSchedule;
using pomona::Precision;

struct Kind {
  PackedForm form;
  Precision precision;
};
constexpr Kind kKinds[] = {{PackedForm::kFloat32, Precision::kFloat32},
                           {PackedForm::kBFloat16, Precision::kFloat32},
                           {PackedForm::kBFloat16, Precision::kBFloat16},
                           {PackedForm::kBytes, Precision::kFixed16},
                           {PackedForm::kBytes, Precision::kInt8}};

struct Matrix {
  int64_t rows, cols;
  std::vector<float> dense;
  pomona::Weight weight() const {
    return pomona::make_weight("w", pomona::DType::kFloat32, {rows, cols},
                               std::as_bytes(std::span(dense)));
  }
};

// `values` distinct weights, both signs.
Matrix random_matrix(int64_t rows, int64_t cols, double density, int values, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<float> codebook;
  for (int i = 0; i < values; ++i) {
    codebook.push_back(static_cast<float>(i + 1) / 7.0f * (i % 2 == 0 ? 1.0f : -1.0f));
  }
  Matrix matrix{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols))};
  for (auto& weight : matrix.dense) {
    if (uniform(random) < density) weight = codebook[random() % codebook.size()];
  }
  return matrix;
}

std::vector<float> random_x(int64_t cols, bool is_signed, unsigned seed = 2) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(is_signed ? -1.0f : 0.0f, 1.0f);
  std::vector<float> x(static_cast<size_t>(cols));
  for (auto& value : x) value = uniform(random);
  return x;
}

struct Product {
  std::vector<double> y;     // in double
  std::vector<double> size;  // sum of |w x|
};

Product reference(const Matrix& matrix, const std::vector<float>& x) {
  Product product;
  for (int64_t r = 0; r < matrix.rows; ++r) {
    double sum = 0, size = 0;
    for (int64_t c = 0; c < matrix.cols; ++c) {
      const double term =
          static_cast<double>(matrix.dense[static_cast<size_t>(r * matrix.cols + c)]) *
          static_cast<double>(x[static_cast<size_t>(c)]);
      sum += term;
      size += std::abs(term);
    }
    product.y.push_back(sum);
    product.size.push_back(size);
  }
  return product;
}

struct Planes {
  explicit Planes(int64_t bytes)
      : memory(new (std::align_val_t{64}) std::byte[static_cast<size_t>(bytes)]),
        span(memory, static_cast<size_t>(bytes)) {
    std::ranges::fill(span, std::byte{0xff});  // nothing that is there already may count
  }
  ~Planes() { operator delete[](memory, std::align_val_t{64}); }
  Planes(const Planes&) = delete;
  Planes& operator=(const Planes&) = delete;
  std::byte* memory;
  std::span<std::byte> span;
};

std::vector<float> multiply(std::span<const std::byte> bytes, const std::vector<float>& x, Isa isa,
                            const float* bias = nullptr, bool has_relu = false) {
  const auto matrix = pomona::check_pg(bytes);
  std::vector<float> y(static_cast<size_t>(matrix.header.rows), -12345.0f);
  Planes planes(pomona::pg_input_bytes(matrix));
  const auto input = pomona::make_pg_input(matrix, x, planes.span, isa);
  if (!input.is_usable) {
    pomona::multiply_pg_slowly(matrix, x, bias, has_relu, y.data());
    return y;
  }
  const auto blocks = std::ssize(matrix.blocks) - 1;
  for (int64_t b = blocks; b-- > 0;) {  // in any order, by any thread
    pomona::multiply_pg(matrix, input, bias, has_relu, y.data(), b, b + 1, isa);
  }
  return y;
}

float largest_of(const std::vector<float>& values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// Of float32: c eps sum |w x|, c the nonzeros, at least 16; of bfloat16 pairs 2^-15, of bfloat16
// 2^-7 of that sum. In fixed point each product is off by half a step of x and of w, whose steps
// are their largest over the largest code; the spilled ones are not.
double bound(Kind kind, const Matrix& matrix, const std::vector<float>& x, const Product& product,
             size_t row) {
  const double size = product.size[row];
  int64_t kept = 0;
  for (int64_t c = 0; c < matrix.cols; ++c) {
    kept += matrix.dense[row * static_cast<size_t>(matrix.cols) + static_cast<size_t>(c)] != 0;
  }
  const double product_of_largest = static_cast<double>(largest_of(matrix.dense)) *
                                    static_cast<double>(largest_of(x)) * static_cast<double>(kept);
  const double rounding = 0x1p-23 * static_cast<double>(std::max<int64_t>(16, kept)) * size + 1e-30;
  switch (kind.precision) {
    case Precision::kFloat32:
      return kind.form == PackedForm::kFloat32 ? rounding : 0x1p-15 * size + 1e-30;
    case Precision::kBFloat16:
      return 0x1p-7 * size + 1e-30;
    case Precision::kFixed16:
      return product_of_largest * 0.5 * (1.0 / 32767 + 1.0 / 32512) * 1.01 + rounding;
    case Precision::kInt8:
      return product_of_largest * 0.5 * (1.0 / 127 + 1.0 / 127) * 1.01 + rounding;
  }
  return 0;
}

void expect_product(const Matrix& matrix, const std::vector<float>& x, Kind kind, Isa isa,
                    const std::string& what, PgEffort effort = PgEffort::kThorough) {
  const auto weight = matrix.weight();
  if (!pomona::why_not_pg(weight, kind.form, kind.precision).empty()) return;
  const auto bytes = pomona::pack_pg(weight, kind.form, kind.precision, effort);
  const auto view = pomona::check_pg(bytes);
  std::vector<float> dense(matrix.dense.size());
  pomona::unpack_pg(view, dense.data());
  ASSERT_EQ(dense, matrix.dense) << what;
  if (!pomona::has_pg_isa(view, isa)) return;
  const auto expected = reference(matrix, x);
  const auto y = multiply(bytes, x, isa);
  for (size_t r = 0; r < y.size(); ++r) {
    ASSERT_NEAR(y[r], expected.y[r], bound(kind, matrix, x, expected, r))
        << what << ", row " << r << ", form " << static_cast<int>(kind.form) << ", precision "
        << static_cast<int>(kind.precision) << ", isa " << static_cast<int>(isa);
  }
}

constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512BFloat16};

TEST(PgSchedule, SeesEveryColumnAndKnowsWhereItStands) {
  for (const auto form : {PackedForm::kFloat32, PackedForm::kBFloat16, PackedForm::kBytes}) {
    const int multiple = pomona::pg_shape(form).steps;
    for (const int64_t cols : {1, 15, 16, 17, 64, 65, 1000}) {
      const int64_t fewest = PgSchedule::fewest_steps(cols, form);
      for (const int64_t more : {0, 1, 5, 40, 1000, 1001}) {  // from 1000 on with one view
        const PgSchedule schedule(cols, fewest + more % 1000 * multiple, form, more < 1000 ? 2 : 1);
        for (uint32_t c = 0; c < cols; ++c) {
          const auto first = schedule.seen_first(c), second = schedule.seen_second(c);
          ASSERT_GT(first.size() + second.size(), 0u) << cols << ", " << c;
          if (schedule.views() == 1) {
            ASSERT_TRUE(second.empty());
            ASSERT_EQ(first.back() - first.front() + 1, first.size());
          }
          for (const auto steps : {first, second}) {
            for (const uint32_t s : steps) {
              ASSERT_EQ(schedule.column_at(schedule.index_of(c, s), s), c);
            }
          }
        }
      }
    }
  }
}

TEST(PgKernel, EqualsADenseProductAroundEveryTileSize) {
  for (const int64_t rows : {1, 15, 16, 17, 63, 64, 65, 130, 513}) {
    for (const int64_t cols : {1, 16, 17, 32, 33, 64, 65, 129, 300}) {
      for (const double density : {0.02, 0.3, 1.0}) {
        const auto matrix = random_matrix(rows, cols, density, 15);
        for (const auto kind : kKinds) {
          for (const Isa isa : kIsas) {
            expect_product(matrix, random_x(cols, rows % 2 == 0), kind, isa,
                           std::to_string(rows) + " x " + std::to_string(cols) + " at " +
                               std::to_string(density));
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(PgKernel, EqualsADenseProductPackedInAHurry) {
  for (const int64_t rows : {1, 17, 130}) {
    for (const int64_t cols : {1, 33, 129, 1000}) {
      for (const double density : {0.02, 0.3, 1.0}) {
        for (const auto kind : kKinds) {
          for (const Isa isa : kIsas) {
            expect_product(random_matrix(rows, cols, density, 15), random_x(cols, true), kind, isa,
                           std::to_string(rows) + " x " + std::to_string(cols), PgEffort::kQuick);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(PgPack, TheThreadsDoNotShow) {
  // In any order: the last part first.
  const pomona::ParallelFor backwards = [](int64_t count,
                                           const std::function<void(int64_t)>& task) {
    for (int64_t i = count - 1; i >= 0; --i) task(i);
  };
  const auto weight = random_matrix(1700, 300, 0.2, 30).weight();
  for (const auto kind : kKinds) {
    if (!pomona::why_not_pg(weight, kind.form, kind.precision).empty()) continue;
    for (const auto effort : {PgEffort::kQuick, PgEffort::kThorough}) {
      EXPECT_EQ(pomona::pack_pg(weight, kind.form, kind.precision, effort, backwards),
                pomona::pack_pg(weight, kind.form, kind.precision, effort));
    }
  }
}

TEST(PgKernel, EqualsADenseProductForEveryNumberOfCodes) {
  for (const int values : {1, 2, 14, 15, 16, 17, 31, 32, 33, 60, 63, 64, 100, 255}) {
    const auto matrix = random_matrix(100, 200, 0.2, values);
    for (const auto kind : kKinds) {
      for (const Isa isa : kIsas) {
        expect_product(matrix, random_x(200, true), kind, isa, std::to_string(values) + " values");
        if (HasFatalFailure()) return;
      }
    }
  }
}

// All nonzeros in one row, in one column, in one window; a full row among empty ones.
TEST(PgKernel, EqualsADenseProductOfAdversarialPatterns) {
  const auto with = [](int64_t rows, int64_t cols, auto is_kept) {
    Matrix matrix{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols))};
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        if (is_kept(r, c)) {
          matrix.dense[static_cast<size_t>(r * cols + c)] =
              0.25f * static_cast<float>(1 + (r + c) % 7);
        }
      }
    }
    return matrix;
  };
  const Matrix matrices[] = {
      with(70, 3000, [](int64_t r, int64_t) { return r == 13; }),
      with(3000, 7, [](int64_t, int64_t c) { return c == 3; }),
      with(64, 4096, [](int64_t, int64_t c) { return c < 32; }),
      with(64, 4096, [](int64_t, int64_t c) { return c % 256 == 0; }),
      with(600, 600, [](int64_t r, int64_t c) { return c <= r; }),
      with(1, 1, [](int64_t, int64_t) { return true; }),
      with(40, 100, [](int64_t r, int64_t c) { return r == 39 && c == 99; }),
  };
  for (size_t m = 0; m < std::size(matrices); ++m) {
    for (const auto kind : kKinds) {
      for (const Isa isa : kIsas) {
        expect_product(matrices[m], random_x(matrices[m].cols, m % 2 == 0), kind, isa,
                       "pattern " + std::to_string(m));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(PgKernel, HasTheSameBitsInEveryFormOfTheInstructions) {
  for (const int64_t rows : {300, 330, 350, 370}) {  // 1 to 4 vectors in the last group
    for (const int values : {3, 15, 16, 31}) {
      auto matrix = random_matrix(rows, 700, 0.1, values);
      if (values == 3) {  // exactly bfloat16
        for (auto& weight : matrix.dense) weight *= 7;
      }
      const auto x = random_x(700, rows != 300);
      for (const auto kind : {kKinds[0], kKinds[3], kKinds[4]}) {
        const auto bytes = pomona::pack_pg(matrix.weight(), kind.form, kind.precision);
        const auto plain = multiply(bytes, x, Isa::kPortable);
        for (const Isa isa : kIsas) {
          if (!pomona::has_pg_isa(pomona::check_pg(bytes), isa)) continue;
          EXPECT_EQ(plain, multiply(bytes, x, isa)) << rows << ", " << values;
        }
      }
    }
  }
}

// Of denormal values the upper half in bfloat16 leaves a rest that bfloat16 rounds to 0.
TEST(PgKernel, HasTheSameBitsWithDenormalWeights) {
  auto matrix = random_matrix(40, 100, 0.3, 5);
  for (auto& weight : matrix.dense) weight *= 1e-42f;
  std::vector<float> x(100, 1e38f);
  const auto bytes = pomona::pack_pg(matrix.weight(), PackedForm::kFloat32, Precision::kFloat32);
  const auto plain = multiply(bytes, x, Isa::kPortable);
  for (const Isa isa : kIsas)
    EXPECT_EQ(plain, multiply(bytes, x, pomona::has_isa(isa) ? isa : Isa::kPortable));
}

// A buffer that begins at no more than a multiple of 8, as torch and others may have it.
TEST(PgKernel, ReadsBytesAtAnyMultipleOfEight) {
  const auto matrix = random_matrix(100, 300, 0.2, 20);
  const auto x = random_x(300, true);
  for (const auto kind : kKinds) {
    const auto bytes = pomona::pack_pg(matrix.weight(), kind.form, kind.precision);
    for (const Isa isa : kIsas) {
      if (!pomona::has_pg_isa(pomona::check_pg(bytes), isa)) continue;
      const auto expected = multiply(bytes, x, isa);
      for (const size_t offset : {8u, 16u, 24u, 40u}) {
        Planes moved(std::ssize(bytes) + 64);
        std::ranges::copy(bytes, moved.span.begin() + static_cast<std::ptrdiff_t>(offset));
        EXPECT_EQ(multiply(moved.span.subspan(offset, bytes.size()), x, isa), expected) << offset;
      }
    }
  }
}

// The largest weights and inputs of each byte, both signs: where an instruction would saturate.
TEST(PgKernel, HasTheSameBitsAtTheEndsOfFixedPoint) {
  const float values[] = {-32512, -32384, -32385, -128, -127, 127, 128, 129, 32383, 32512};
  Matrix matrix{40, 300, std::vector<float>(40 * 300)};
  std::mt19937 random(5);
  for (auto& weight : matrix.dense) weight = values[random() % std::size(values)];
  for (const float low : {-32768.0f, 0.0f}) {
    const float inputs[] = {low, low + 1, low + 127, low + 128, low + 255, low + 256, 32767};
    std::vector<float> x(300);
    for (auto& value : x) value = inputs[random() % std::size(inputs)];
    for (const auto kind : {kKinds[3], kKinds[4]}) {
      const auto bytes = pomona::pack_pg(matrix.weight(), kind.form, kind.precision);
      for (const Isa isa : kIsas) {
        if (!pomona::has_pg_isa(pomona::check_pg(bytes), isa)) continue;
        EXPECT_EQ(multiply(bytes, x, Isa::kPortable), multiply(bytes, x, isa));
      }
    }
  }
}

TEST(PgKernel, IsExactWhereFixedPointHoldsWeightsAndInputs) {
  // Weights of -127..127 and inputs of 0..255, both ends there: int8's scales are 1.
  Matrix matrix{20, 90, std::vector<float>(20 * 90)};
  std::mt19937 random(3);
  const float values[] = {-127, -64, -3, -1, 1, 2, 5, 100, 127};
  for (auto& weight : matrix.dense) {
    if (random() % 4 == 0) weight = values[random() % std::size(values)];
  }
  std::vector<float> x(90);
  for (auto& value : x) value = static_cast<float>(random() % 256);
  x[7] = 255;
  const auto bytes = pomona::pack_pg(matrix.weight(), PackedForm::kBytes, Precision::kInt8);
  const auto expected = reference(matrix, x);
  const auto y = multiply(bytes, x, Isa::kPortable);
  for (size_t r = 0; r < y.size(); ++r) EXPECT_EQ(y[r], expected.y[r]);
}

TEST(PgKernel, AddsTheBiasAndClipsBelowZero) {
  const auto matrix = random_matrix(600, 90, 0.2, 5);
  const auto x = random_x(90, true);
  std::vector<float> bias(600);
  for (size_t r = 0; r < bias.size(); ++r) bias[r] = static_cast<float>(r % 5) - 2;
  const auto bytes = pomona::pack_pg(matrix.weight(), PackedForm::kFloat32, Precision::kFloat32);
  const auto expected = reference(matrix, x);
  const auto y = multiply(bytes, x, Isa::kBest, bias.data());
  const auto clipped = multiply(bytes, x, Isa::kBest, bias.data(), true);
  for (size_t r = 0; r < y.size(); ++r) {
    EXPECT_NEAR(y[r], expected.y[r] + bias[r], 1e-5);
    EXPECT_EQ(clipped[r], std::max(y[r], 0.0f));
  }
}

TEST(PgKernel, HasNaNAndInfAsADenseProductHasThem) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const auto matrix = random_matrix(65, 40, 0.5, 5);
  for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    auto x = random_x(40, true);
    x[11] = bad;
    const auto expected = reference(matrix, x);
    for (const auto kind : kKinds) {
      const auto bytes = pomona::pack_pg(matrix.weight(), kind.form, kind.precision);
      for (const Isa isa : kIsas) {
        if (!pomona::has_pg_isa(pomona::check_pg(bytes), isa)) continue;
        const auto y = multiply(bytes, x, isa);
        for (size_t r = 0; r < y.size(); ++r) {
          if (std::isnan(expected.y[r])) {
            EXPECT_TRUE(std::isnan(y[r])) << r;
          } else {
            EXPECT_EQ(y[r], static_cast<float>(expected.y[r])) << r;
          }
        }
      }
    }
  }
}

TEST(PgKernel, KeepsDenormals) {
  const auto matrix = random_matrix(40, 60, 0.5, 5);
  auto x = random_x(60, true);
  for (auto& value : x) value *= 1e-40f;
  const auto expected = reference(matrix, x);
  for (const auto kind : {kKinds[0], kKinds[1]}) {
    const auto bytes = pomona::pack_pg(matrix.weight(), kind.form, kind.precision);
    for (const Isa isa : kIsas) {
      if (!pomona::has_pg_isa(pomona::check_pg(bytes), isa)) continue;
      const auto y = multiply(bytes, x, isa);
      for (size_t r = 0; r < y.size(); ++r) EXPECT_NEAR(y[r], expected.y[r], 1e-43);
    }
  }
}

TEST(PgPack, SaysWhyItCannot) {
  const auto why = [](const Matrix& matrix, PackedForm form, Precision precision) {
    return pomona::why_not_pg(matrix.weight(), form, precision);
  };
  constexpr auto kFloat = PackedForm::kFloat32;
  constexpr auto kExact = Precision::kFloat32;
  EXPECT_EQ(why(random_matrix(4, 4, 0, 5), kFloat, kExact), "it has no nonzero");
  EXPECT_EQ(why(random_matrix(40, 40, 1, 100), kFloat, kExact),
            "it has more than 31 values that matter");
  auto tiny = random_matrix(4, 4, 1, 5);
  tiny.dense[3] = 1e-20f;
  EXPECT_EQ(why(tiny, kFloat, kExact), "");
  EXPECT_EQ(why(tiny, PackedForm::kBFloat16, kExact),
            "its codebook leaves the range of bfloat16 arithmetic");
}

TEST(CheckPg, RefusesEveryDamageOfTheTables) {
  const auto matrix = random_matrix(100, 300, 0.1, 5);
  const auto good = pomona::pack_pg(matrix.weight(), PackedForm::kFloat32, Precision::kFloat32);
  const auto x = random_x(300, true);
  const auto header = pomona::check_pg(good).header;
  std::mt19937 random(9);
  int refused = 0;
  for (int trial = 0; trial < 4000; ++trial) {  // damage is refused, or harms no memory
    auto bytes = good;
    const auto at = static_cast<size_t>(random() % static_cast<uint32_t>(header.stream_at));
    bytes[at] = static_cast<std::byte>(random());
    try {
      multiply(bytes, x, Isa::kBest);
    } catch (const pomona::InvalidArgument&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 500);
  for (size_t size = 0; size < good.size(); size += 97) {
    EXPECT_THROW(pomona::check_pg(std::span(good).first(size)), pomona::InvalidArgument);
  }
}

}  // namespace
