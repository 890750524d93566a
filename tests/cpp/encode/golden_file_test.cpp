// The golden files of version 2, one for each goal: what a released version wrote must be read for
// ever. Their tensors follow from formulas that tests/python/encode/test_format_document.py
// computes on its own. POMONA_UPDATE_GOLDEN=1 writes them anew.
#include "pomona/file.h"

#include "encode/random_weights.h"
#include "temporary_folder.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <utility>

namespace {

using pomona::DType;
using pomona::make_weight;
using pomona::Weight;
using pomona::testing::bytes_of;

constexpr std::pair<const char*, pomona::Goal> kGoals[] = {{"smallest", pomona::Goal::kSmallest},
                                                           {"fast", pomona::Goal::kFast},
                                                           {"huffman", pomona::Goal::kHuffman},
                                                           {"rans", pomona::Goal::kRans},
                                                           {"context", pomona::Goal::kContext}};

std::filesystem::path golden(const std::string& goal) {
  return std::filesystem::path(POMONA_GOLDEN) / ("v2-" + goal + ".pomona");
}

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

uint32_t scatter(int64_t i) {
  return static_cast<uint32_t>(i) * 2654435761u;
}

// Seven values in each row of 64, others in the next.
float of_its_row(int64_t i) {
  const auto row = static_cast<float>(i / 64);
  return scatter(i) >> 30 == 0 ? 0.0f : row + 0.125f * static_cast<float>(scatter(i) % 7 + 1);
}

std::vector<Weight> golden_weights(pomona::Goal goal) {
  constexpr float kBias[] = {0.5f, -0.0f, 1.5f, 0.0f, 2.5f};
  constexpr uint16_t kHalfBias[] = {0x3F80, 0x8000, 0x7FC1, 0xFF80};
  constexpr double kDoubles[] = {0.0, 0.1, -0.2};
  constexpr int kIntegers[] = {0, 1, -1};
  const auto integer = [&](int64_t i) { return kIntegers[i]; };
  std::vector<Weight> weights{
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
  const auto unique = [](int64_t i) { return static_cast<float>(scatter(i)) / 1024; };
  weights.push_back(tensor<float>("grouped", DType::kFloat32, {48, 64}, of_its_row));
  weights.push_back(tensor<float>("grid", DType::kFloat32, {40}, [](int64_t i) {
    return static_cast<float>(scatter(i) >> 25) / 64 - 1;
  }));
  weights.push_back(tensor<float>("planes", DType::kFloat32, {20, 30}, [](int64_t i) {
    return 1 + static_cast<float>(scatter(i) >> 12) / (1 << 24);
  }));
  weights.push_back(tensor<int64_t>("ids", DType::kInt64, {100}, [](int64_t i) { return i + 1; }));
  weights.push_back(
      tensor<float>("rows", DType::kFloat32, {10, 30}, [&](int64_t i) { return unique(i % 30); }));
  weights.push_back(tensor<float>("few.pruned", DType::kFloat32, {30, 40}, [](int64_t i) {
    return static_cast<float>((scatter(i) >> 8) % 5);
  }));
  weights.push_back(tensor<float>("half.kept", DType::kFloat32, {600}, [&](int64_t i) {
    return scatter(i) >> 31 == 0 ? 0.0f : unique(i);
  }));
  weights.push_back(tensor<float>("image", DType::kFloat32, {12, 64}, [](int64_t i) {
    const int64_t x = i % 8, y = i / 8 % 8;
    const bool is_inside = x > 1 && x < 6 && y > 1 && y < 6;
    return is_inside && scatter(i) >> 30 == 0 ? 0.5f + static_cast<float>(i % 3) : 0.0f;
  }));
  weights.push_back(tensor<float>("kernel", DType::kFloat32, {6, 5, 3, 3}, [](int64_t i) {
    return scatter(i) >> 30 < 2 ? 0.25f * static_cast<float>((scatter(i) >> 8) % 4 + 1) : 0.0f;
  }));
  if (goal != pomona::Goal::kSmallest && goal != pomona::Goal::kContext) {
    // More than a chunk; in the context of so many zeros a plain decoder would take minutes.
    weights.push_back(tensor<float>("chunks", DType::kFloat32, {1100, 1000}, [](int64_t i) {
      return i % 20011 == 7 ? 0.5f * static_cast<float>(i % 4 + 1) : 0.0f;
    }));
  }
  return weights;
}

void write_golden(const std::filesystem::path& path, pomona::Goal goal) {
  pomona::FileWriter writer(path, {.goal = goal, .parallel = {}});
  for (const auto& weight : golden_weights(goal)) writer.add(weight);
  writer.set_metadata(R"({"golden": 2})");
  writer.commit();
}

TEST(GoldenFile, OfEachGoalIsReadExactly) {
  for (const auto& [name, goal] : kGoals) {
    if (std::getenv("POMONA_UPDATE_GOLDEN") != nullptr) write_golden(golden(name), goal);
    const pomona::FileReader reader(golden(name));
    const auto weights = golden_weights(goal);
    ASSERT_EQ(reader.entries().size(), weights.size());
    EXPECT_EQ(reader.metadata(), R"({"golden": 2})");
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_EQ(reader.entries()[i].name, weights[i].name);
      EXPECT_EQ(reader.read(weights[i].name), weights[i]) << weights[i].name;
    }
  }
}

TEST(GoldenFile, OfEachGoalIsWhatThisVersionWrites) {
  const pomona::testing::TemporaryFolder folder;
  for (const auto& [name, goal] : kGoals) {
    write_golden(folder / name, goal);
    EXPECT_EQ(pomona::testing::contents_of(folder / name),
              pomona::testing::contents_of(golden(name)))
        << name;
  }
}

}  // namespace
