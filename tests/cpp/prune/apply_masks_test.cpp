// The loops of apply_masks_ beside one `if` per element.
#include "pomona/mask.h"

#include "prune/apply_masks_kernel.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace {

using pomona::Mask;

Mask thirds(int64_t size) {
  Mask mask(size, false);
  for (int64_t i = 0; i < size; i += 3) mask.set(i, true);
  return mask;
}

template <class Word>
class ApplyMasksKernel : public testing::Test {};
using Words = testing::Types<uint8_t, uint16_t, uint32_t, uint64_t>;
TYPED_TEST_SUITE(ApplyMasksKernel, Words);

TYPED_TEST(ApplyMasksKernel, ZeroesContiguousRowsOfEverySizeAndNothingElse) {
  for (const int64_t rows : {1, 2, 5}) {
    for (int64_t cols = 1; cols <= 35; ++cols) {
      const Mask mask = thirds(rows * cols);
      const auto bytes = mask.to_row_bytes(rows);
      std::vector<TypeParam> data(static_cast<size_t>(rows * cols), TypeParam(~TypeParam{0}));
      const std::vector<int64_t> sizes{cols}, strides{1};
      pomona::apply_masks_rows<TypeParam>({data.data(), bytes.data(), cols, cols, sizes, strides},
                                          0, rows);
      for (int64_t i = 0; i < mask.size(); ++i) {
        const TypeParam expected = mask[i] ? TypeParam(~TypeParam{0}) : TypeParam{0};
        ASSERT_EQ(data[static_cast<size_t>(i)], expected) << rows << "x" << cols << " at " << i;
      }
    }
  }
}

// A weight [4, 3, 2, 5] whose channels are the fastest in memory.
TYPED_TEST(ApplyMasksKernel, FollowsChannelsLastStrides) {
  const Mask mask = thirds(120);
  const auto bytes = mask.to_row_bytes(4);
  std::vector<TypeParam> data(120, TypeParam{7});
  const std::vector<int64_t> sizes{3, 2, 5}, strides{1, 15, 3};
  pomona::apply_masks_rows<TypeParam>({data.data(), bytes.data(), 30, 30, sizes, strides}, 0, 4);
  int64_t logical = 0;
  for (int64_t o = 0; o < 4; ++o) {
    for (int64_t c = 0; c < 3; ++c) {
      for (int64_t h = 0; h < 2; ++h) {
        for (int64_t w = 0; w < 5; ++w, ++logical) {
          const auto at = static_cast<size_t>(o * 30 + h * 15 + w * 3 + c);
          ASSERT_EQ(data[at], mask[logical] ? TypeParam{7} : TypeParam{0}) << logical;
        }
      }
    }
  }
}

// A transposed matrix of rows with gaps: no two dimensions merge.
TYPED_TEST(ApplyMasksKernel, FollowsStridesWithGapsAndLeavesTheGaps) {
  const Mask mask = thirds(2 * 3 * 5);
  const auto bytes = mask.to_row_bytes(2);
  std::vector<TypeParam> data(200, TypeParam{1}), expected = data;
  const std::vector<int64_t> sizes{3, 5}, strides{2, 9};
  int64_t logical = 0;
  for (size_t r = 0; r < 2; ++r) {
    for (size_t i = 0; i < 3; ++i) {
      for (size_t j = 0; j < 5; ++j, ++logical) {
        if (!mask[logical]) expected[r * 90 + i * 2 + j * 9] = 0;
      }
    }
  }
  pomona::apply_masks_rows<TypeParam>({data.data(), bytes.data(), 15, 90, sizes, strides}, 0, 2);
  EXPECT_EQ(data, expected);
}

TEST(MemoryOrder, MergesDimensionsThatContinueEachOther) {
  const auto count = [](std::vector<int64_t> sizes, std::vector<int64_t> strides) {
    return pomona::memory_order(sizes, strides).size();
  };
  EXPECT_EQ(count({3, 2, 5}, {10, 5, 1}), 1u);  // contiguous
  EXPECT_EQ(count({3, 2, 5}, {1, 15, 3}), 2u);  // channels_last
  EXPECT_EQ(count({3, 1, 1}, {1, 7, 9}), 1u);   // a dimension of one element has any stride
  EXPECT_EQ(count({}, {}), 1u);
}

TYPED_TEST(ApplyMasksKernel, TouchesOnlyTheRowsItIsGiven) {
  const auto bytes = Mask(6, false).to_row_bytes(3);
  std::vector<TypeParam> data(6, TypeParam{1});
  const std::vector<int64_t> sizes{2}, strides{1};
  pomona::apply_masks_rows<TypeParam>({data.data(), bytes.data(), 2, 2, sizes, strides}, 1, 2);
  EXPECT_EQ(data, (std::vector<TypeParam>{1, 1, 0, 0, 1, 1}));
}

TYPED_TEST(ApplyMasksKernel, TreatsRowsWithoutDimensionsAsSingleElements) {
  const auto bytes = thirds(4).to_row_bytes(4);
  std::vector<TypeParam> data(4, TypeParam{1});
  pomona::apply_masks_rows<TypeParam>({data.data(), bytes.data(), 1, 1, {}, {}}, 0, 4);
  EXPECT_EQ(data, (std::vector<TypeParam>{1, 0, 0, 1}));
}

}  // namespace
