#include "pomona/weight.h"

#include "pomona/error.h"

#include "base/float16.h"
#include "error_of.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace {

using pomona::DType;
using pomona::InvalidArgument;
using pomona::make_weight;
using pomona::Mask;
using pomona::Weight;
using pomona::testing::error_of;

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Weight from_floats(const std::vector<float>& values) {
  return make_weight("w", DType::kFloat32, {static_cast<int64_t>(values.size())}, bytes_of(values));
}

// A shared weight: 1 0 | 2 1.
Weight small_shared() {
  Weight weight{.name = "fc", .dtype = DType::kFloat32, .shape = {2, 2}, .mask = Mask(4)};
  weight.mask.set(1, false);
  weight.codebook = {1, 2};
  weight.codes = {0, 1, 0};
  return weight;
}

TEST(DTypes, HaveTorchsNamesAndSizes) {
  EXPECT_EQ(pomona::dtype_name(DType::kBFloat16), "bfloat16");
  EXPECT_EQ(pomona::dtype_name(DType::kBool), "bool");
  EXPECT_EQ(pomona::item_size(DType::kFloat64), 8);
  EXPECT_EQ(pomona::item_size(DType::kFloat16), 2);
  EXPECT_TRUE(pomona::is_floating(DType::kFloat64));
  EXPECT_FALSE(pomona::is_floating(DType::kInt64));
}

TEST(DTypes, RefuseANumberOutsideTheTable) {
  EXPECT_EQ(error_of([] { pomona::item_size(static_cast<DType>(10)); }),
            "weight: expected `dtype` below 10, got 10.");
}

TEST(MakeWeight, TakesZerosAndACodebookOut) {
  const Weight weight = from_floats({0.5f, 0, 0, -1, 0.5f, 0.5f, -1, 0.5f});
  EXPECT_EQ(weight.mask.kept(), 6);
  EXPECT_EQ(weight.codebook, (std::vector<float>{-1, 0.5f}));
  EXPECT_EQ(weight.codes, (std::vector<uint8_t>{1, 0, 1, 1, 0, 1}));
  EXPECT_TRUE(weight.values.empty());
}

TEST(MakeWeight, KeepsValuesWhenACodebookWouldBeLarger) {
  const Weight weight = from_floats({0.5f, 0, -1, 2});
  EXPECT_FALSE(weight.is_shared());
  EXPECT_EQ(weight.values, bytes_of(std::vector<float>{0.5f, -1, 2}));
}

TEST(MakeWeight, KeepsMinusZeroAsAWeight) {
  const Weight weight = from_floats({0.0f, -0.0f, -0.0f, -0.0f, 1, 1});
  EXPECT_EQ(weight.mask.kept(), 5);
  ASSERT_EQ(weight.codebook.size(), 2u);
  EXPECT_TRUE(std::signbit(weight.codebook[0]));
}

TEST(MakeWeight, KeepsTheBitsOfNaNs) {
  std::vector<uint32_t> bits(100, 0x7f800001);  // signalling, with a payload
  bits[3] = 0;
  const Weight weight = make_weight("w", DType::kFloat32, {100}, bytes_of(bits));
  EXPECT_FALSE(weight.is_shared());
  EXPECT_EQ(weight.to_dense(), bytes_of(bits));
}

TEST(MakeWeight, SharesUpTo256Values) {
  std::vector<float> values;
  for (int i = 0; i < 2000; ++i) values.push_back(static_cast<float>(1 + i % 256));
  EXPECT_EQ(from_floats(values).codebook.size(), 256u);
  values.push_back(1000);
  EXPECT_FALSE(from_floats(values).is_shared());
  EXPECT_EQ(from_floats(values).to_dense(), bytes_of(values));
}

TEST(MakeWeight, SharesEverySixteenBitPatternExactlyButNaN) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (uint32_t pattern = 0; pattern < 0x10000; pattern += 7) {
      const std::vector<uint16_t> bits(40, static_cast<uint16_t>(pattern));
      const Weight weight = make_weight("w", dtype, {40}, bytes_of(bits));
      ASSERT_EQ(weight.to_dense(), bytes_of(bits)) << pattern;
      ASSERT_NO_THROW(weight.check());
    }
  }
}

TEST(MakeWeight, TakesScalarsAndEmptyTensors) {
  const std::vector<int64_t> step{300};
  const Weight scalar = make_weight("step", DType::kInt64, {}, bytes_of(step));
  EXPECT_EQ(scalar.numel(), 1);
  EXPECT_EQ(scalar.to_dense(), bytes_of(step));
  const Weight empty = make_weight("none", DType::kFloat32, {3, 0, 2}, {});
  EXPECT_EQ(empty.mask.size(), 0);
  EXPECT_TRUE(empty.to_dense().empty());
  const Weight zeros =
      make_weight("zeros", DType::kBFloat16, {70}, bytes_of(std::vector<uint16_t>(70)));
  EXPECT_EQ(zeros.mask.kept(), 0);
  EXPECT_FALSE(zeros.is_shared());
}

TEST(MakeWeight, GivesEveryTensorBackBitForBit) {
  std::mt19937_64 rng(1);
  for (int trial = 0; trial < 400; ++trial) {
    const auto dtype = static_cast<DType>(rng() % pomona::kDTypeCount);
    const auto item = static_cast<size_t>(pomona::item_size(dtype));
    const size_t numel = rng() % 400, distinct = 1 + rng() % 300;
    std::vector<std::vector<std::byte>> palette(distinct, std::vector<std::byte>(item));
    for (auto& value : palette) {
      for (auto& byte : value) byte = static_cast<std::byte>(rng());
    }
    std::vector<std::byte> dense(numel * item);
    for (size_t i = 0; i < numel; ++i) {
      if (rng() % 4 == 0) continue;
      std::memcpy(dense.data() + i * item, palette[rng() % distinct].data(), item);
    }
    const Weight weight = make_weight("w", dtype, {static_cast<int64_t>(numel)}, dense);
    ASSERT_NO_THROW(weight.check());
    ASSERT_EQ(weight.to_dense(), dense) << "trial " << trial;
  }
}

TEST(MakeWeight, RefusesBytesThatDoNotFitTheShape) {
  EXPECT_EQ(error_of([] {
              make_weight("fc", DType::kFloat32, {2, 3}, {});
            }),
            "weight 'fc': expected `dense` of 6 times 4 bytes, got 0.");
  const std::vector<std::byte> seven(7);
  EXPECT_NE(error_of([&] { make_weight("fc", DType::kFloat16, {3}, seven); }).find("got 7"),
            std::string::npos);
}

TEST(MakeWeight, RefusesShapesThatAreNone) {
  EXPECT_EQ(error_of([] {
              make_weight("fc", DType::kFloat32, {0, -1}, {});
            }),
            "weight 'fc': expected `shape` of sizes of at least 0, got 0, -1.");
  const int64_t huge = int64_t{1} << 62;
  EXPECT_NE(error_of([&] {
              make_weight("fc", DType::kFloat32, {huge, 4}, {});
            }).find("2^63"),
            std::string::npos);
  EXPECT_EQ(make_weight("fc", DType::kFloat32, {huge, 4, 0}, {}).numel(), 0);
}

TEST(WeightCheck, AcceptsASharedWeightMadeByHand) {
  EXPECT_NO_THROW(small_shared().check());
  EXPECT_EQ(small_shared().to_dense(), bytes_of(std::vector<float>{1, 0, 2, 1}));
}

TEST(WeightCheck, RefusesAMaskOfAnotherSize) {
  Weight weight = small_shared();
  weight.mask = Mask(5);
  EXPECT_EQ(error_of([&] { weight.check(); }), "weight 'fc': expected `mask` of 4 bits, got 5.");
}

TEST(WeightCheck, RefusesCodesThatDoNotFit) {
  Weight weight = small_shared();
  weight.codes = {0, 2, 0};
  EXPECT_EQ(error_of([&] { weight.check(); }),
            "weight 'fc': expected `codes` below 2, got 2 at 1.");
  weight.codes = {0};
  EXPECT_NE(error_of([&] { weight.check(); }).find("3 kept weights, got 1"), std::string::npos);
  weight.codebook.clear();
  EXPECT_NE(error_of([&] { weight.check(); }).find("without a codebook"), std::string::npos);
}

// `rows` rows of `cols`; value(r, c) has few values in each row, others in the next.
template <class Value>
Weight matrix(int64_t rows, int64_t cols, Value value) {
  std::vector<float> dense;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) dense.push_back(value(r, c));
  }
  const auto bytes = std::as_bytes(std::span(dense));
  Weight weight = make_weight("w", DType::kFloat32, {rows, cols}, bytes);
  EXPECT_EQ(weight.to_dense(), std::vector<std::byte>(bytes.begin(), bytes.end()));
  EXPECT_NO_THROW(weight.check());
  return weight;
}

TEST(MakeWeight, FindsACodebookForEachRow) {
  const auto weight = matrix(100, 200, [](int64_t r, int64_t c) {
    return c % 5 == 0 ? 0.0f : static_cast<float>(r) + 0.125f * static_cast<float>(c % 4 + 1);
  });
  EXPECT_EQ(weight.group, 200);
  EXPECT_EQ(weight.groups(), 100);
  EXPECT_EQ(weight.centroids(), 4);
}

TEST(MakeWeight, FindsACodebookForEachGroupOfARow) {
  const auto weight = matrix(6, 2048, [](int64_t r, int64_t c) {
    return static_cast<float>(64 * r + c / 32) + 0.125f * static_cast<float>(c % 5);
  });
  EXPECT_EQ(weight.group, 32);
  EXPECT_EQ(weight.centroids(), 5);
}

TEST(MakeWeight, PadsTheCodebooksOfGroupsWithFewerValuesOrNone) {
  const auto weight = matrix(300, 64, [](int64_t r, int64_t c) {
    if (r == 0) return 0.0f;
    return static_cast<float>(r) + 0.125f * static_cast<float>(c % (r == 1 ? 2 : 3));
  });
  ASSERT_EQ(weight.centroids(), 3);
  EXPECT_EQ(std::vector(weight.codebook.begin(), weight.codebook.begin() + 6),
            (std::vector<float>{0, 0, 0, 1, 1.125f, 1.125f}));
}

TEST(MakeWeight, LeavesValuesThatAreManyEverywhere) {
  const auto weight = matrix(
      64, 64, [](int64_t r, int64_t c) { return 1.0f + static_cast<float>(r * 64 + c) / 4096; });
  EXPECT_FALSE(weight.is_shared());
}

TEST(Weight, WritesItsElementsIntoMemoryOfTheirSizeOnly) {
  const auto weight = matrix(3, 2, [](int64_t r, int64_t) { return static_cast<float>(r); });
  std::vector<std::byte> memory(24, std::byte{0xff});
  weight.to_dense(memory);
  EXPECT_EQ(memory, weight.to_dense());
  memory.pop_back();
  EXPECT_THROW(weight.to_dense(memory), InvalidArgument);
}

TEST(WeightCheck, RefusesGroupsThatDoNotFit) {
  Weight weight{.name = "w", .shape = {4}, .mask = Mask(4), .codebook = {1, 2, 1, 3}};
  weight.codes = {0, 1, 0, 1};
  weight.group = 2;
  EXPECT_NO_THROW(weight.check());
  weight.group = 4;
  EXPECT_THROW(weight.check(), InvalidArgument);
  weight.group = 1;
  EXPECT_THROW(weight.check(), InvalidArgument);  // codes above the only entry of each
  weight.group = 3;
  weight.codebook = {1, 2, 3};
  EXPECT_THROW(weight.check(), InvalidArgument);  // not so many for each of two
}

TEST(WeightCheck, RefusesACodebookThatIsNotAscending) {
  Weight weight = small_shared();
  weight.codebook = {2, 2};
  EXPECT_NE(error_of([&] { weight.check(); }).find("ascending, got 2 at 1"), std::string::npos);
  weight.codebook = {1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_NE(error_of([&] { weight.check(); }).find("ascending"), std::string::npos);
  weight.codebook.assign(257, 0);
  EXPECT_NE(error_of([&] { weight.check(); }).find("at most 256"), std::string::npos);
}

TEST(WeightCheck, RefusesACodebookOfAnotherDType) {
  Weight weight = small_shared();
  weight.dtype = DType::kFloat16;
  weight.codebook = {1, 1.0001f};
  EXPECT_NE(error_of([&] { weight.check(); }).find("float16 values"), std::string::npos);
  weight.dtype = DType::kInt32;
  EXPECT_NE(error_of([&] { weight.check(); }).find("got int32"), std::string::npos);
}

TEST(WeightCheck, RefusesValuesThatDoNotFit) {
  Weight weight = small_shared();
  weight.values.resize(4);
  EXPECT_NE(error_of([&] { weight.check(); }).find("no `values`"), std::string::npos);
  weight.codebook.clear();
  weight.codes.clear();
  EXPECT_EQ(error_of([&] { weight.to_dense(); }),
            "weight 'fc': expected `values` of 3 times 4 bytes, got 4.");
}

}  // namespace
