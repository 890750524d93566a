#include "quantize/codebook_kernel.h"

#include "pomona/packed_bits.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

namespace {

constexpr int kWidths[] = {1, 2, 4, 8};
constexpr int64_t kSizes[] = {0, 1, 7, 8, 9, 63, 257, pomona::kChunk - 1, pomona::kChunk + 1};

std::vector<uint8_t> some_codes(int64_t count, int bits) {
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  for (size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<uint8_t>((i * 89) % (1u << bits));
  return codes;
}

// An exact allocation of the packed codes, so that a sanitizer sees a byte read past them.
TEST(CodebookKernel, LooksEveryCodeUp) {
  std::array<uint32_t, pomona::kCodeValues> table;
  for (size_t j = 0; j < table.size(); ++j) table[j] = static_cast<uint32_t>(1000 + j);
  for (const int bits : kWidths) {
    for (const int64_t size : kSizes) {
      const auto codes = some_codes(size, bits);
      const auto packed = pomona::pack_bits(codes, bits);
      std::vector<uint32_t> out(codes.size());
      const int64_t half = size / 16 * 8;  // two ranges, as two threads would take them
      pomona::lookup_range<uint32_t>(table, packed, bits, out, 0, half);
      pomona::lookup_range<uint32_t>(table, packed, bits, out, half, size);
      for (size_t i = 0; i < codes.size(); ++i) ASSERT_EQ(out[i], 1000u + codes[i]) << bits;
    }
  }
}

TEST(CodebookKernel, SumsEveryCluster) {
  for (const int bits : kWidths) {
    for (const int64_t size : kSizes) {
      const auto codes = some_codes(size, bits);
      const auto packed = pomona::pack_bits(codes, bits);
      std::vector<float> grad(codes.size());
      std::vector<double> expected(pomona::kCodeValues, 0.0);
      for (size_t i = 0; i < codes.size(); ++i) {
        grad[i] = static_cast<float>(i % 5) - 1;  // small integers: sums are exact
        expected[codes[i]] += double{grad[i]};
      }
      const int64_t chunks = pomona::chunk_count(size);
      std::vector<float> partials(static_cast<size_t>(chunks * pomona::kCodeValues));
      pomona::add_chunks<float, float>(grad, packed, bits, partials, 0, chunks);
      std::vector<float> sums((1u << bits) - 1);  // the last code is dropped
      pomona::add_partials<float>(partials, sums);
      for (size_t j = 0; j < sums.size(); ++j) ASSERT_EQ(double{sums[j]}, expected[j]) << bits;
    }
  }
}

}  // namespace
