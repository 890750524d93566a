// The golden file of version 1: what was once written must be read for ever. Its tensors follow
// from formulas that tests/python/encode/test_format_document.py computes on its own.
// POMONA_UPDATE_GOLDEN=1 writes it anew.
#include "pomona/file.h"

#include "encode/random_weights.h"
#include "temporary_folder.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace {

using pomona::DType;
using pomona::make_weight;
using pomona::Weight;
using pomona::testing::bytes_of;

constexpr const char* kGolden = POMONA_GOLDEN "/v1.pomona";

// `value(i)` for each element.
template <class T, class Value>
Weight tensor(std::string name, DType dtype, std::vector<int64_t> shape, Value value) {
  const int64_t numel = Weight{.shape = shape}.numel();
  std::vector<T> values;
  for (int64_t i = 0; i < numel; ++i) values.push_back(static_cast<T>(value(i)));
  return make_weight(std::move(name), dtype, std::move(shape), bytes_of(values));
}

float pruned_and_shared(int64_t i) {
  constexpr float kCentroids[] = {-0.75f, -0.5f, -0.25f, 0.25f, 0.5f, 0.75f};
  const uint32_t scattered = static_cast<uint32_t>(i) * 2654435761u;
  return scattered >> 24 < 26 ? kCentroids[(scattered >> 8) % 6] : 0.0f;
}

std::vector<Weight> golden_weights() {
  constexpr float kBias[] = {0.5f, -0.0f, 1.5f, 0.0f, 2.5f};
  constexpr uint16_t kHalfBias[] = {0x3F80, 0x8000, 0x7FC1, 0xFF80};
  constexpr double kDoubles[] = {0.0, 0.1, -0.2};
  constexpr int kIntegers[] = {0, 1, -1};
  const auto integer = [&](int64_t i) { return kIntegers[i]; };
  return {
      tensor<float>("fc.weight", DType::kFloat32, {40, 50}, pruned_and_shared),
      tensor<float>("fc.bias", DType::kFloat32, {5}, [&](int64_t i) { return kBias[i]; }),
      tensor<uint16_t>("conv.weight", DType::kFloat16, {4, 1, 3, 3},
                       [](int64_t i) { return i % 5 == 0 ? 0 : 0x3C00 + 256 * (i % 3); }),
      tensor<uint16_t>("conv.bias", DType::kBFloat16, {4}, [&](int64_t i) { return kHalfBias[i]; }),
      tensor<uint16_t>("shared.bfloat16", DType::kBFloat16, {64},
                       [](int64_t i) { return i % 2 == 1 ? 0x8000 : 0x3F80; }),
      tensor<int64_t>("steps", DType::kInt64, {}, [](int64_t) { return 1234567890123; }),
      tensor<float>("empty", DType::kFloat32, {0, 3}, [](int64_t) { return 1.0f; }),
      tensor<uint8_t>("flags", DType::kBool, {10}, [](int64_t i) { return i % 3 == 0; }),
      tensor<float>("zeros", DType::kFloat32, {2, 3, 4}, [](int64_t) { return 0.0f; }),
      tensor<float>("ones", DType::kFloat32, {64}, [](int64_t) { return 1.0f; }),
      tensor<float>("every.second", DType::kFloat32, {200},
                    [](int64_t i) { return i % 2 == 0 ? 0 : 1 + i % 4; }),
      tensor<float>("far", DType::kFloat32, {5000},
                    [](int64_t i) { return i == 4999 ? 2.5f : 0.0f; }),
      tensor<double>("float64", DType::kFloat64, {3}, [&](int64_t i) { return kDoubles[i]; }),
      tensor<uint8_t>("uint8", DType::kUInt8, {3}, integer),
      tensor<int8_t>("int8", DType::kInt8, {3}, integer),
      tensor<int16_t>("int16", DType::kInt16, {3}, integer),
      tensor<int32_t>("int32", DType::kInt32, {3}, integer),
  };
}

void write_golden(const std::filesystem::path& path) {
  pomona::FileWriter writer(path);
  for (const auto& weight : golden_weights()) writer.add(weight);
  writer.commit();
}

TEST(GoldenFile, OfVersion1IsReadExactly) {
  if (std::getenv("POMONA_UPDATE_GOLDEN") != nullptr) write_golden(kGolden);
  const pomona::FileReader reader(kGolden);
  const auto weights = golden_weights();
  ASSERT_EQ(reader.entries().size(), weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    EXPECT_EQ(reader.entries()[i].name, weights[i].name);
    EXPECT_EQ(reader.read(weights[i].name), weights[i]) << weights[i].name;
  }
}

TEST(GoldenFile, OfVersion1IsWhatThisVersionWrites) {
  const pomona::testing::TemporaryFolder folder;
  write_golden(folder / "a");
  EXPECT_EQ(pomona::testing::contents_of(folder / "a"), pomona::testing::contents_of(kGolden));
}

}  // namespace
