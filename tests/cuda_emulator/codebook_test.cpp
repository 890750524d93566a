// cuda/quantize/codebook_kernel.cuh in the emulator, against the definitions.

#include "pomona/packed_bits.h"

#include "base/float16.h"
#include "cuda_emulator/every_order.h"
#include "quantize/codebook_kernel.cuh"

#include <gtest/gtest.h>

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
                            int bits) {
    const auto packed = pack_bits(codes, bits);
    std::vector<Word> out(codes.size());
    launch_lookup(launcher(), codebook.data(), static_cast<int64_t>(codebook.size()), packed.data(),
                  bits, static_cast<int64_t>(out.size()), out.data());
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

TEST_P(LookupKernel, DoesNotLaunchForNothing) {
  look_up<uint32_t>({1, 2}, {}, 1);
  EXPECT_EQ(launches(), 0);
}

class CentroidGradKernel : public InEveryOrder {
 protected:
  template <class Sum, class Grad>
  std::vector<Sum> sums(const std::vector<Grad>& grad, const std::vector<uint8_t>& codes, int bits,
                        int64_t k) {
    const auto packed = pack_bits(codes, bits);
    const auto size = static_cast<int64_t>(grad.size());
    const SumGrid grid = sum_grid<Sum>(size, k);
    std::vector<Sum> partials(static_cast<size_t>(k) * grid.blocks);
    std::vector<Sum> out(static_cast<size_t>(k), Sum(-1));
    launch_centroid_grad(launcher(), grid, grad.data(), packed.data(), bits, size, k,
                         partials.data(), out.data());
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
  ASSERT_GT(sum_grid<float>(kCount, 40).blocks, 3u);
  EXPECT_EQ(widened(sums<float>(grad, codes, 8, 40)), literal_sums(grad, codes, 40));
}

TEST_P(CentroidGradKernel, GivesTheSameBitsInEveryOrder) {
  std::vector<float> grad(9000);
  for (size_t i = 0; i < grad.size(); ++i) grad[i] = 1.0f / static_cast<float>(i + 1);
  const auto codes = random_codes(grad.size(), 16, 4);
  const auto here = sums<float>(grad, codes, 4, 16);
  const SumGrid grid = sum_grid<float>(9000, 16);
  const auto packed = pack_bits(codes, 4);
  std::vector<float> partials(16 * grid.blocks), forward(16);
  const auto in_order = [](auto kernel, dim3 blocks, dim3 threads, const auto&... arguments) {
    launch({Order::kForward}, blocks, threads, kernel, arguments...);
  };
  launch_centroid_grad(in_order, grid, grad.data(), packed.data(), 4, int64_t{9000}, int64_t{16},
                       partials.data(), forward.data());
  EXPECT_EQ(here, forward);
}

TEST_P(CentroidGradKernel, GivesZerosForAnEmptyGradient) {
  EXPECT_EQ(sums<float>(std::vector<float>{}, {}, 4, 5), std::vector<float>(5, 0.0f));
}

TEST(SumGridTest, KeepsTheAccumulatorsInTheirSharedMemory) {
  for (int64_t k = 1; k <= 256; ++k) {
    const auto floats = sum_grid<float>(1 << 30, k), doubles = sum_grid<double>(1 << 30, k);
    EXPECT_LE(k * floats.threads * 4, kAccumulatorBytes);
    EXPECT_LE(k * doubles.threads * 8, kAccumulatorBytes);
    EXPECT_GE(floats.threads, 32u);
    EXPECT_GE(doubles.threads, 16u);
    EXPECT_LE(floats.blocks, kMaxSumBlocks);
  }
}

}  // namespace
}  // namespace pomona::emulator
