// cuda/quantize/codebook_kernel.cuh in the emulator, against the definitions.

#include "pomona/packed_bits.h"

#include "base/float16.h"
#include "cuda_emulator/every_order.h"
#include "quantize/codebook_kernel.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace pomona::emulator {
namespace {

// A 16-bit type of the kind that c10::BFloat16 is.
struct BFloat16 {
  uint16_t bits;
  explicit BFloat16(float value) : bits(bfloat16_from_float(value)) {}
  operator float() const { return float_from_bfloat16(bits); }
};

std::vector<uint8_t> random_codes(size_t count, int64_t below, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<uint8_t> codes(count);
  for (auto& code : codes) code = static_cast<uint8_t>(rng() % static_cast<uint64_t>(below));
  return codes;
}

template <class Word>
std::vector<Word> random_words(size_t count) {
  std::mt19937_64 rng(count);
  std::vector<Word> words(count);
  for (auto& word : words) word = static_cast<Word>(rng());
  return words;
}

constexpr size_t kSizes[] = {1, 7, 8, 9, 31, 33, 255, 257, 2048, 2049};

class LookupKernel : public InEveryOrder {
 protected:
  template <class Word>
  std::vector<Word> look_up(const std::vector<Word>& codebook, const std::vector<uint8_t>& codes,
                            int bits, int64_t groups = 1) {
    const auto packed = pack_bits(codes, bits);
    std::vector<Word> out(codes.size());
    const auto size = static_cast<int64_t>(codes.size());
    const DeviceLayout layout{packed.data(), bits, size,
                              std::max<int64_t>(1, (size + groups - 1) / groups),
                              static_cast<int64_t>(codebook.size()) / groups};
    launch_lookup(launcher(), codebook.data(), layout, out.data());
    return out;
  }
  template <class Word>
  void expect_entries(int bits, size_t size) {
    const auto codebook = random_words<Word>(size_t{1} << bits);
    const auto codes = random_codes(size, int64_t{1} << bits, size);
    const auto out = look_up(codebook, codes, bits);
    for (size_t i = 0; i < size; ++i) ASSERT_EQ(out[i], codebook[codes[i]]) << bits << " " << i;
  }
};
INSTANTIATE_TEST_SUITE_P(Order, LookupKernel, every_order(), order_name);

TEST_P(LookupKernel, GivesTheCodebooksEntryAtEveryWidthAndSize) {
  for (const int bits : {1, 2, 4, 8}) {
    for (const size_t size : kSizes) expect_entries<uint32_t>(bits, size);
  }
}

TEST_P(LookupKernel, ServesEveryElementSize) {
  expect_entries<uint16_t>(4, 1000);
  expect_entries<uint64_t>(8, 1000);
}

TEST_P(LookupKernel, GivesNaNForCodesOutsideTheCodebook) {
  const std::vector<uint32_t> codebook{0x3f800000u, 0x40000000u, 0x40400000u};
  const std::vector<uint8_t> codes{0, 3, 2, 3};
  const auto out = look_up(codebook, codes, 2);
  EXPECT_EQ(out[0], codebook[0]);
  EXPECT_EQ(out[2], codebook[2]);
  for (const size_t i : {1u, 3u}) EXPECT_TRUE(std::isnan(std::bit_cast<float>(out[i])));
  const auto bytes = look_up<uint16_t>({1, 2, 3}, {0, 255, 3}, 8);
  EXPECT_EQ(bytes[0], 1);
  for (const size_t i : {1u, 2u}) {
    EXPECT_TRUE(std::isnan(float_from_float16(bytes[i])));
    EXPECT_TRUE(std::isnan(float_from_bfloat16(bytes[i])));
  }
}

TEST_P(LookupKernel, GivesEachGroupItsCodebook) {
  constexpr int64_t kGroups = 7, kEntries = 5;  // of 143 elements each, the last of 142
  const auto codebooks = random_words<uint32_t>(kGroups * kEntries);
  const auto codes = random_codes(1000, 8, 2);
  const auto out = look_up(codebooks, codes, 4, kGroups);
  for (size_t i = 0; i < codes.size(); ++i) {
    const uint32_t expected = codes[i] < kEntries ? codebooks[i / 143 * kEntries + codes[i]] : ~0u;
    ASSERT_EQ(out[i], expected) << i;
  }
}

TEST_P(LookupKernel, DoesNotLaunchForNothing) {
  look_up<uint32_t>({1, 2}, {}, 1);
  EXPECT_EQ(launches(), 0);
}

// All elements in one group, or in groups of `group`.
DeviceLayout layout_of(const std::vector<uint8_t>& packed, int bits, size_t size, int64_t k,
                       int64_t group = 0) {
  const auto count = static_cast<int64_t>(size);
  return {packed.data(), bits, count, group > 0 ? group : std::max<int64_t>(count, 1), k};
}

class CentroidGradKernel : public InEveryOrder {
 protected:
  template <class Sum, class Grad>
  std::vector<Sum> sums(const std::vector<Grad>& grad, const std::vector<uint8_t>& codes, int bits,
                        int64_t k, int64_t group = 0) {
    const auto packed = pack_bits(codes, bits);
    const DeviceLayout layout = layout_of(packed, bits, grad.size(), k, group);
    const SumGrid grid = sum_grid<Sum>(layout);
    std::vector<Sum> partials(static_cast<size_t>(partial_count(layout, grid)));
    std::vector<Sum> out(static_cast<size_t>(std::max<int64_t>(layout.groups(), 1) * k), Sum(-1));
    launch_centroid_grad(launcher(), layout, grid, grad.data(), partials.data(), out.data());
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(Order, CentroidGradKernel, every_order(), order_name);

template <class Grad>
std::vector<Grad> random_grad(size_t count) {
  std::mt19937_64 rng(count);
  std::vector<Grad> grad;
  for (size_t i = 0; i < count; ++i) {
    grad.emplace_back(static_cast<float>(static_cast<int>(rng() % 2001) - 1000) / 64.0f);
  }
  return grad;
}

// The definition, in double.
template <class Grad>
std::vector<double> literal_sums(const std::vector<Grad>& grad, const std::vector<uint8_t>& codes,
                                 int64_t k) {
  std::vector<double> sums(static_cast<size_t>(k));
  for (size_t i = 0; i < grad.size(); ++i) {
    if (codes[i] < k) sums[codes[i]] += static_cast<double>(static_cast<float>(grad[i]));
  }
  return sums;
}

// Gradients are multiples of 1/64 below 16, so that sums of a few thousand are exact in float.
template <class Sum>
std::vector<double> widened(const std::vector<Sum>& sums) {
  return {sums.begin(), sums.end()};
}

TEST_P(CentroidGradKernel, AddsEachClusterAtEveryWidthAndSize) {
  for (const int bits : {1, 2, 4, 8}) {
    for (const size_t size : kSizes) {
      const int64_t k = int64_t{1} << bits;
      const auto grad = random_grad<float>(size);
      const auto codes = random_codes(size, k, size + 1);
      EXPECT_EQ(widened(sums<float>(grad, codes, bits, k)), literal_sums(grad, codes, k))
          << bits << " bits, " << size << " elements";
    }
  }
}

TEST_P(CentroidGradKernel, DropsCodesOutsideTheCodebook) {
  for (const int64_t k : {1, 3, 17, 100, 255}) {
    const auto grad = random_grad<float>(700);
    const auto codes = random_codes(700, 256, 5);
    EXPECT_EQ(widened(sums<float>(grad, codes, 8, k)), literal_sums(grad, codes, k)) << k;
  }
}

TEST_P(CentroidGradKernel, AddsDoublesInDoubleAndShortTypesInFloat) {
  const auto codes = random_codes(900, 256, 9);
  const auto doubles = random_grad<double>(900);
  EXPECT_EQ(sums<double>(doubles, codes, 8, 256), literal_sums(doubles, codes, 256));
  const std::vector<BFloat16> ones(3000, BFloat16(1.0f));  // a bfloat16 sum would stop at 256
  const std::vector<uint8_t> zeros(3000, 0);
  EXPECT_EQ(sums<float>(ones, zeros, 1, 2), (std::vector<float>{3000.0f, 0.0f}));
}

TEST_P(CentroidGradKernel, SplitsLongSumsOverBlocks) {
  constexpr size_t kCount = 20000;
  const auto grad = random_grad<float>(kCount);
  const auto codes = random_codes(kCount, 40, 3);
  ASSERT_GT(sum_grid<float>(layout_of({}, 8, kCount, 40)).blocks, 3u);
  EXPECT_EQ(widened(sums<float>(grad, codes, 8, 40)), literal_sums(grad, codes, 40));
}

TEST_P(CentroidGradKernel, GivesTheSameBitsInEveryOrder) {
  std::vector<float> grad(9000);
  for (size_t i = 0; i < grad.size(); ++i) grad[i] = 1.0f / static_cast<float>(i + 1);
  const auto codes = random_codes(grad.size(), 16, 4);
  const auto here = sums<float>(grad, codes, 4, 16);
  const auto packed = pack_bits(codes, 4);
  const DeviceLayout layout = layout_of(packed, 4, 9000, 16);
  const SumGrid grid = sum_grid<float>(layout);
  std::vector<float> partials(16 * grid.blocks), forward(16);
  const auto in_order = [](auto kernel, dim3 blocks, dim3 threads, const auto&... arguments) {
    launch({Order::kForward}, blocks, threads, kernel, arguments...);
  };
  launch_centroid_grad(in_order, layout, grid, grad.data(), partials.data(), forward.data());
  EXPECT_EQ(here, forward);
}

TEST_P(CentroidGradKernel, AddsEachGroupOnItsOwn) {
  const auto grad = random_grad<float>(1000);
  const auto codes = random_codes(1000, 8, 6);
  for (const int64_t group : {1, 75, 300, 999}) {
    const auto found = sums<float>(grad, codes, 4, 7, group);
    std::vector<double> expected(found.size());
    for (size_t i = 0; i < grad.size(); ++i) {
      if (codes[i] < 7) expected[i / static_cast<size_t>(group) * 7 + codes[i]] += double{grad[i]};
    }
    EXPECT_EQ(widened(found), expected) << group;
  }
}

TEST_P(CentroidGradKernel, GivesZerosForAnEmptyGradient) {
  EXPECT_EQ(sums<float>(std::vector<float>{}, {}, 4, 5), std::vector<float>(5, 0.0f));
}

TEST(SumGridTest, KeepsTheAccumulatorsInTheirSharedMemory) {
  for (int64_t k = 1; k <= 256; ++k) {
    const DeviceLayout layout{nullptr, 8, 1 << 30, 1 << 30, k};
    const auto floats = sum_grid<float>(layout), doubles = sum_grid<double>(layout);
    EXPECT_LE(k * floats.threads * 4, kAccumulatorBytes);
    EXPECT_LE(k * doubles.threads * 8, kAccumulatorBytes);
    EXPECT_GE(floats.threads, 32u);
    EXPECT_GE(doubles.threads, 16u);
    EXPECT_LE(floats.blocks, kMaxSumBlocks);
  }
}

}  // namespace
}  // namespace pomona::emulator
