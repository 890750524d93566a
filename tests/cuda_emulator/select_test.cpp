// cuda/prune/select_kernel.cuh in the emulator, under the driver that the CPU uses, against
// select_pool: masks and threshold bit for bit.

#include "pomona/selection.h"

#include "base/float16.h"
#include "cuda_emulator/every_order.h"
#include "prune/select_kernel.cuh"
#include "prune/select_kernel.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace pomona::emulator {
namespace {

template <class Key>
Key key_bits_of(double value, DType dtype) {
  const auto narrow = static_cast<float>(value);
  switch (dtype) {
    case DType::kFloat16:
      return static_cast<Key>(float16_from_float(narrow));
    case DType::kBFloat16:
      return static_cast<Key>(bfloat16_from_float(narrow));
    case DType::kFloat32:
      return static_cast<Key>(std::bit_cast<int32_t>(narrow));
    default:
      return static_cast<Key>(std::bit_cast<int64_t>(value));
  }
}

using Values = std::vector<double>;

// Whole numbers: many ties, some zeros, both signs of them.
Values small_integers(size_t size, int range, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::uniform_int_distribution<int> number(-range, range);
  Values values(size);
  for (double& x : values) x = number(rng) * (rng() % 2 == 0 ? 1.0 : -1.0);
  return values;
}

Values normal_values(size_t size, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<double> normal(0, 0.1);
  Values values(size);
  for (double& x : values) x = normal(rng);
  return values;
}

Mask random_mask(int64_t size, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<uint64_t> words(static_cast<size_t>((size + 63) / 64));
  for (auto& word : words) word = rng() | rng();
  return Mask(size, std::move(words));
}

// A tensor on the "device": the buffers end with their last element.
template <class Key>
struct DevicePart {
  std::vector<Key> bits;
  std::vector<uint64_t> words;

  LiveScores<Key> view(bool by_value) const {
    return {bits.data(), words.data(), static_cast<int64_t>(bits.size()), by_value};
  }
};

template <class Key, class Launch>
std::vector<uint64_t> pruned_words(const Launch& launch, const DevicePart<Key>& part, Key cut,
                                   int64_t ties, bool by_value, int64_t max_blocks) {
  const LiveScores<Key> scores = part.view(by_value);
  const SelectGrid grid = select_grid(scores.size, max_blocks);
  std::vector<unsigned long long> ties_of_warp(static_cast<size_t>(grid.warps()), ~0ull);
  std::vector<uint64_t> out(part.words.size(), 0x5555);
  launch_select_mask(launch, grid, scores, cut, ties, ties_of_warp.data(), out.data());
  return out;
}

// The driver's view of the emulated device.
template <class Key, class Launch>
class EmulatedParts : public RadixParts {
 public:
  EmulatedParts(Launch launch, std::vector<DevicePart<Key>>& parts, bool by_value, int64_t blocks)
      : launch_(launch), parts_(parts), by_value_(by_value), max_blocks_(blocks) {}
  size_t size() const override { return parts_.size(); }
  bool is_replicated(size_t) const override { return false; }
  int64_t pruned(size_t p) override {
    std::vector<int64_t> counts(kDigitValues);
    count({&p, 1}, {top_shift(sizeof(Key) * 8), 0}, counts);
    return std::accumulate(counts.begin(), counts.end(),
                           static_cast<int64_t>(parts_[p].bits.size()), std::minus<>());
  }
  void count(std::span<const size_t> which, const KeyDigit& digit,
             std::span<int64_t> counts) override {
    for (size_t c = 0; c < which.size(); ++c) {
      std::vector<unsigned long long> found(kDigitValues);
      launch_select_histogram(launch_, parts_[which[c]].view(by_value_), digit, found.data());
      for (size_t v = 0; v < kDigitValues; ++v) {
        counts[c * kDigitValues + v] = static_cast<int64_t>(found[v]);
      }
    }
  }
  void prune(size_t p, int64_t cut, int64_t ties) override {
    parts_[p].words =
        pruned_words(launch_, parts_[p], static_cast<Key>(cut), ties, by_value_, max_blocks_);
  }

 private:
  Launch launch_;
  std::vector<DevicePart<Key>>& parts_;
  bool by_value_;
  int64_t max_blocks_;
};

struct Case {
  std::vector<Values> tensors;
  double sparsity = 0.5;
  bool by_value = false;
  bool zeros_go = false;
  bool has_previous = false;
  int64_t max_blocks = kMaxSelectBlocks;
};

class SelectKernel : public InEveryOrder {
 protected:
  void expect_selection_of_the_cpu(const Case& pool) {
    expect_equal<int16_t>(DType::kFloat16, pool);
    expect_equal<int16_t>(DType::kBFloat16, pool);
    expect_equal<int32_t>(DType::kFloat32, pool);
    expect_equal<int64_t>(DType::kFloat64, pool);
  }

  template <class Key>
  void expect_equal(DType dtype, const Case& pool) {
    std::vector<DevicePart<Key>> parts;
    std::vector<Mask> previous;
    int64_t n = 0;
    for (const Values& values : pool.tensors) {
      const auto size = static_cast<int64_t>(values.size());
      n += size;
      previous.push_back(pool.has_previous ? random_mask(size, values.size()) : Mask(size));
      auto& part = parts.emplace_back();
      for (const double x : values) part.bits.push_back(key_bits_of<Key>(x, dtype));
      const auto words = previous.back().words();
      part.words.assign(words.begin(), words.end());
    }
    std::vector<Scores> scores;
    for (const auto& part : parts) {
      scores.push_back({part.bits.data(), static_cast<int64_t>(part.bits.size()), dtype});
    }
    const Selection expected =
        select_pool(scores, pool.sparsity, previous, {pool.by_value, pool.zeros_go, {}});

    for (auto& part : parts) {
      if (pool.zeros_go) part.words = pruned_words(launcher(), part, Key{1}, 0, false, 1024);
    }
    EmulatedParts<Key, decltype(launcher())> device(launcher(), parts, pool.by_value,
                                                    pool.max_blocks);
    const auto cut = radix_select(device, sizeof(Key) * 8, pruned_count(n, pool.sparsity), {});
    EXPECT_EQ(cut ? score_of_key(*cut, dtype, pool.by_value) : 0.0, expected.threshold);
    for (size_t p = 0; p < parts.size(); ++p) {
      const auto words = expected.masks[p].words();
      EXPECT_EQ(parts[p].words, std::vector<uint64_t>(words.begin(), words.end()))
          << dtype_name(dtype) << ", sparsity " << pool.sparsity << ", tensor " << p;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Order, SelectKernel, every_order(), order_name);

TEST_P(SelectKernel, EqualsTheCpuOnRandomScoresOfEverySize) {
  for (const size_t size : {1u, 2u, 31u, 33u, 63u, 64u, 65u, 127u, 1000u, 5001u}) {
    for (const bool by_value : {false, true}) {
      expect_selection_of_the_cpu(
          {.tensors = {normal_values(size, size)}, .sparsity = 0.63, .by_value = by_value});
    }
  }
}

TEST_P(SelectKernel, BreaksTiesByIndexAcrossWarpsAndBlocks) {
  for (const double sparsity : {0.1, 0.5, 0.999}) {
    for (const bool by_value : {false, true}) {
      expect_selection_of_the_cpu(
          {.tensors = {small_integers(9001, 3, 1)}, .sparsity = sparsity, .by_value = by_value});
    }
  }
}

TEST_P(SelectKernel, TakesTheFirstOfScoresThatAreAllEqual) {
  for (const double sparsity : {0.0, 0.001, 0.5, 0.9999}) {
    expect_selection_of_the_cpu({.tensors = {Values(4999, -2.5)}, .sparsity = sparsity});
  }
}

TEST_P(SelectKernel, ZerosOfBothSignsGoEvenWhenFewerAreAskedFor) {
  for (const double sparsity : {0.01, 0.2, 0.8}) {
    expect_selection_of_the_cpu({.tensors = {small_integers(1500, 2, 2), Values(70, -0.0)},
                                 .sparsity = sparsity,
                                 .zeros_go = true});
  }
}

TEST_P(SelectKernel, MaskedScoresStayMaskedAndCount) {
  for (const double sparsity : {0.1, 0.3, 0.77}) {
    for (const bool by_value : {false, true}) {
      expect_selection_of_the_cpu({.tensors = {small_integers(5003, 9, 3), normal_values(801, 4)},
                                   .sparsity = sparsity,
                                   .by_value = by_value,
                                   .zeros_go = !by_value,
                                   .has_previous = true});
    }
  }
}

TEST_P(SelectKernel, RanksManyTensorsTogetherTheEarlierFirst) {
  for (const double sparsity : {0.05, 0.5, 0.95}) {
    expect_selection_of_the_cpu({.tensors = {small_integers(130, 4, 5),
                                             {},
                                             small_integers(1, 4, 6),
                                             small_integers(4100, 4, 7),
                                             Values(64, 1.0)},
                                 .sparsity = sparsity});
  }
}

TEST_P(SelectKernel, SelectsAscendingAndDescendingScores) {
  Values ascending(3000);
  std::iota(ascending.begin(), ascending.end(), -1000.0);
  const Values descending(ascending.rbegin(), ascending.rend());
  for (const bool by_value : {false, true}) {
    expect_selection_of_the_cpu(
        {.tensors = {ascending, descending}, .sparsity = 0.41, .by_value = by_value});
  }
}

TEST_P(SelectKernel, ReadsExtremeScores) {
  const double least = std::numeric_limits<float>::denorm_min();
  expect_selection_of_the_cpu(
      {.tensors = {{least, -least, 0.0, -0.0, 65504, -65504, 6e-8, -6e-8, 1, -1}},
       .sparsity = 0.5,
       .by_value = true});
}

TEST_P(SelectKernel, AWarpMayHaveMoreWordsThanABlockOfTheSmallestGrid) {
  for (const int64_t max_blocks : {1, 2}) {
    expect_selection_of_the_cpu(
        {.tensors = {small_integers(12'011, 2, 8)}, .sparsity = 0.45, .max_blocks = max_blocks});
  }
}

TEST_P(SelectKernel, BitsPastTheEndAreNotReadAndStay) {
  DevicePart<int32_t> part{{5, 3, 4}, {~uint64_t{0}}};
  std::vector<unsigned long long> counts(kDigitValues);
  launch_select_histogram(launcher(), part.view(false), {0, uint64_t{1} << 20}, counts.data());
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), 0ull), 3u);
  EXPECT_EQ(pruned_words(launcher(), part, 4, 1, false, 8)[0], ~uint64_t{0b110});
}

TEST_P(SelectKernel, DoesNotCountTiesWhenNoneGo) {
  const DevicePart<int32_t> part{{5, 3, 4}, {7}};
  EXPECT_EQ(pruned_words(launcher(), part, 4, 0, false, 8)[0], 0b101u);
  EXPECT_EQ(launches(), 1);
}

TEST_P(SelectKernel, DoesNotLaunchForNothing) {
  const DevicePart<int32_t> empty;
  std::vector<unsigned long long> counts(kDigitValues);
  launch_select_histogram(launcher(), empty.view(false), {}, counts.data());
  pruned_words(launcher(), empty, 4, 1, false, 8);
  launch_first_not_finite(launcher(), empty.bits.data(), 0, int32_t{0x7f800000}, counts.data());
  EXPECT_EQ(launches(), 0);
}

TEST_P(SelectKernel, FindsTheFirstScoreThatIsNotFinite) {
  const auto expect_first = [&](auto key, DType dtype) {
    using Key = decltype(key);
    constexpr double kInf = std::numeric_limits<double>::infinity();
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    for (const double wrong : {kInf, -kInf, kNaN, -kNaN}) {
      for (const size_t place : {size_t{0}, size_t{255}, size_t{256}, size_t{9000}}) {
        std::vector<Key> bits;
        for (const double x : small_integers(9001, 60000, place)) {
          bits.push_back(key_bits_of<Key>(x, dtype));
        }
        bits[place] = key_bits_of<Key>(wrong, dtype);
        if (place + 300 < bits.size()) bits[place + 300] = bits[place];
        unsigned long long first = ~0ull;
        launch_first_not_finite(launcher(), bits.data(), static_cast<int64_t>(bits.size()),
                                static_cast<Key>(infinity_key(dtype)), &first);
        EXPECT_EQ(first, place) << dtype_name(dtype) << " " << wrong;
      }
    }
  };
  expect_first(int16_t{}, DType::kFloat16);
  expect_first(int16_t{}, DType::kBFloat16);
  expect_first(int32_t{}, DType::kFloat32);
  expect_first(int64_t{}, DType::kFloat64);
}

TEST_P(SelectKernel, LeavesTheIndexAloneWhenEveryScoreIsFinite) {
  std::vector<int32_t> bits(777, 0x7f7fffff);
  bits[500] = static_cast<int32_t>(0xff7fffff);
  unsigned long long first = ~0ull;
  launch_first_not_finite(launcher(), bits.data(), 777, int32_t{0x7f800000}, &first);
  EXPECT_EQ(first, ~0ull);
}

}  // namespace
}  // namespace pomona::emulator
