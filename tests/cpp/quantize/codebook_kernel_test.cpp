#include "quantize/codebook_kernel.h"

#include "pomona/packed_bits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace {

using pomona::add_chunks;
using pomona::add_partials;
using pomona::Chunks;
using pomona::CodeLayout;
using pomona::Isa;
using pomona::kChunk;

constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vbmi};
constexpr int kWidths[] = {1, 2, 4, 8};
constexpr int64_t kSizes[] = {0, 1, 7, 8, 9, 63, 64, 257, 1000, kChunk - 1, kChunk + 1};

std::vector<uint8_t> some_codes(int64_t count, int64_t below) {
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  for (size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<uint8_t>(static_cast<int64_t>(i * 89 + i / 7) % below);
  }
  return codes;
}

// Codebooks whose entry says which it is, so that bytes that end up elsewhere show.
template <class Element>
std::vector<Element> some_codebooks(int64_t groups, int64_t k) {
  std::vector<Element> codebooks;
  for (int64_t j = 0; j < groups * k; ++j) {
    codebooks.push_back(static_cast<Element>(uint64_t{0x0123456789abcdef} * uint64_t(j + 1)));
  }
  return codebooks;
}

// An exact allocation of the packed codes, so that a sanitizer sees a byte read past them. Two
// ranges, as two threads would take them.
template <class Element>
void expect_entries(int bits, int64_t k, int64_t size, int64_t group, Isa isa) {
  const auto codes = some_codes(size, int64_t{1} << bits);  // some are outside when k is less
  const auto packed = pomona::pack_bits(codes, bits);
  const CodeLayout layout{packed, bits, size, group, k};
  const auto codebooks = some_codebooks<Element>(std::max<int64_t>(layout.groups(), 1), k);
  std::vector<Element> out(codes.size());
  const int64_t half = size / 128 * 64;
  pomona::lookup_range<Element>(codebooks, layout, out.data(), 0, half, isa);
  pomona::lookup_range<Element>(codebooks, layout, out.data() + half, half, size, isa);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t code = codes[static_cast<size_t>(i)];
    const Element expected = code < k ? codebooks[static_cast<size_t>(i / group * k + code)]
                                      : static_cast<Element>(~Element{0});
    ASSERT_EQ(out[static_cast<size_t>(i)], expected) << bits << " bits, " << k << " entries, group "
                                                     << group << ", isa " << int(isa) << ": " << i;
  }
}

TEST(CodebookKernel, LooksEveryCodeUpWithEveryInstructionSet) {
  for (const Isa isa : kIsas) {
    if (!pomona::has_isa(isa)) continue;
    for (const int bits : kWidths) {
      for (const int64_t size : kSizes) {
        expect_entries<uint32_t>(bits, int64_t{1} << bits, size, std::max<int64_t>(size, 1), isa);
      }
      expect_entries<uint16_t>(bits, int64_t{1} << bits, 1003, 1003, isa);
      expect_entries<uint64_t>(bits, int64_t{1} << bits, 1003, 1003, isa);
    }
    for (const int64_t k : {1, 5, 16, 17, 33, 64, 65, 100, 129, 200, 255}) {
      expect_entries<uint32_t>(8, k, 1003, 1003, isa);
      expect_entries<uint16_t>(8, k, 1003, 1003, isa);
    }
  }
}

TEST(CodebookKernel, GivesEachGroupItsCodebook) {
  for (const Isa isa : kIsas) {
    if (!pomona::has_isa(isa)) continue;
    for (const int bits : kWidths) {
      for (const int64_t group : {1, 3, 27, 64, 75, 128, 999}) {
        expect_entries<uint32_t>(bits, (int64_t{1} << bits) - 1, 1003, group, isa);
        expect_entries<uint16_t>(bits, int64_t{1} << bits, 1003, group, isa);
      }
    }
  }
}

TEST(CodebookKernel, StreamsWhatFitsInNoCache) {
  constexpr int64_t kLarge = (int64_t{9} << 20) + 5;  // of 4 bytes: 36 MB
  for (const Isa isa : kIsas) {
    if (pomona::has_isa(isa)) expect_entries<uint32_t>(8, 256, kLarge, kLarge, isa);
  }
}

TEST(CodebookKernel, SumsEveryCluster) {
  for (const int bits : kWidths) {
    for (const int64_t size : kSizes) {
      for (const int64_t group : {int64_t{27}, int64_t{600}, std::max<int64_t>(size, 1)}) {
        const int64_t k = std::max<int64_t>((int64_t{1} << bits) - 1, 1);  // the last is dropped
        const auto codes = some_codes(size, int64_t{1} << bits);
        const auto packed = pomona::pack_bits(codes, bits);
        const CodeLayout layout{packed, bits, size, group, k};
        std::vector<float> grad(codes.size());
        std::vector<double> expected(static_cast<size_t>(layout.groups() * k), 0.0);
        for (size_t i = 0; i < codes.size(); ++i) {
          grad[i] = static_cast<float>(i % 5) - 1;  // small integers: sums are exact
          if (codes[i] >= k) continue;
          expected[i / static_cast<size_t>(group) * static_cast<size_t>(k) + codes[i]] += grad[i];
        }
        const Chunks chunks(layout);
        std::vector<float> partials(static_cast<size_t>(chunks.count * k));
        add_chunks<float, float>(grad.data(), layout, partials, 0, chunks.count);
        std::vector<float> sums(expected.size());
        add_partials<float>(partials, layout, sums);
        for (size_t j = 0; j < sums.size(); ++j) {
          ASSERT_EQ(double{sums[j]}, expected[j])
              << bits << " " << size << " " << group << " " << j;
        }
      }
    }
  }
}

}  // namespace
