// cuda/prune/apply_masks_kernel.cuh in the emulator, against the definition, element by element.

#include "cuda_emulator/every_order.h"
#include "prune/apply_masks_kernel.cuh"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace pomona::emulator {
namespace {

using Dims = std::vector<int64_t>;

int64_t product(const Dims& sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return count;
}

Dims contiguous_strides(const Dims& sizes) {
  Dims strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes[d];
  return strides;
}

// A strided tensor of unsigned integers in a buffer that ends with its last element, and its mask.
template <class Word>
struct Example {
  Dims sizes, strides;
  std::vector<Word> data;
  std::vector<uint8_t> mask;
  int64_t row_size = 1, mask_stride = 1;

  Example(Dims shape, Dims steps, uint64_t seed) : sizes(std::move(shape)), strides(steps) {
    int64_t last = 0;
    for (size_t d = 0; d < sizes.size(); ++d) last += (sizes[d] - 1) * strides[d];
    const int64_t size = product(sizes), rows = sizes.empty() ? 1 : sizes[0];
    row_size = size == 0 ? 1 : size / rows;
    mask_stride = (row_size + 7) / 8;
    std::mt19937_64 rng(seed);
    data.resize(size == 0 ? 0 : static_cast<size_t>(last + 1));
    for (auto& word : data) word = static_cast<Word>(rng() | 1);
    mask.resize(static_cast<size_t>(size == 0 ? 0 : rows * mask_stride));
    for (auto& byte : mask) byte = static_cast<uint8_t>(rng());
  }

  MaskedTensor masked() {
    MaskedTensor tensor;
    tensor.data = data.data();
    tensor.mask = mask.data();
    tensor.size = product(sizes);
    tensor.row_size = row_size;
    tensor.element_size = sizeof(Word);
    EXPECT_TRUE(set_layout(tensor, sizes, strides));
    return tensor;
  }

  // The definition: walk the logical row-major order, one element after another.
  std::vector<Word> expected() const {
    std::vector<Word> out = data;
    for (int64_t i = 0; i < product(sizes); ++i) {
      int64_t rest = i, offset = 0;
      for (size_t d = sizes.size(); d-- > 0;) {
        offset += rest % sizes[d] * strides[d];
        rest /= sizes[d];
      }
      const int64_t row = i / row_size, column = i % row_size;
      const auto byte = mask[static_cast<size_t>(row * mask_stride + column / 8)];
      if ((byte >> (column % 8) & 1) == 0) out[static_cast<size_t>(offset)] = 0;
    }
    return out;
  }
};

class ApplyMasksKernel : public InEveryOrder {
 protected:
  template <class Word>
  void expect_masked(Dims sizes, Dims strides) {
    Example<Word> example(std::move(sizes), std::move(strides), 7);
    const auto expected = example.expected();
    const MaskedTensor tensor = example.masked();
    launch_apply_masks(launcher(), std::span(&tensor, 1));
    EXPECT_EQ(example.data, expected) << testing::PrintToString(example.sizes);
  }
  template <class Word>
  void expect_masked(const Dims& sizes) {
    expect_masked<Word>(sizes, contiguous_strides(sizes));
  }
};
INSTANTIATE_TEST_SUITE_P(Order, ApplyMasksKernel, every_order(), order_name);

TEST_P(ApplyMasksKernel, ZeroesWhereBitsAreZeroInContiguousTensors) {
  for (const Dims& sizes :
       {Dims{}, Dims{1}, Dims{9}, Dims{1, 1}, Dims{3, 7}, Dims{3, 8}, Dims{3, 9}, Dims{31, 33},
        Dims{5, 1, 5, 5}, Dims{4, 256}, Dims{1, 1023}, Dims{1025, 1}, Dims{33, 64}}) {
    expect_masked<uint32_t>(sizes);
  }
}

TEST_P(ApplyMasksKernel, ServesEveryElementSize) {
  expect_masked<uint8_t>({13, 21});
  expect_masked<uint16_t>({13, 21});
  expect_masked<uint32_t>({13, 21});
  expect_masked<uint64_t>({13, 21});
}

TEST_P(ApplyMasksKernel, FollowsStridesAndLeavesGapsAlone) {
  expect_masked<uint32_t>({7, 5}, {1, 7});                // transposed
  expect_masked<uint16_t>({7, 5}, {11, 2});               // a slice
  expect_masked<uint32_t>({6, 3, 5, 5}, {75, 1, 15, 3});  // channels_last
  expect_masked<uint64_t>({4, 3, 2}, {6, 2, 1});          // contiguous, merged to one dimension
  expect_masked<uint32_t>({9, 4, 6}, {48, 12, 2});        // merged to two
  expect_masked<uint32_t>({3, 2, 3, 2, 3}, {1, 3, 6, 18, 36});  // reversed: nothing merges
  expect_masked<uint32_t>({5, 1, 7}, {7, 999, 1});              // the stride of a size 1 is nothing
}

TEST_P(ApplyMasksKernel, StridesOverTensorsLongerThanItsGrid) {
  // What a block of the largest grid does, with a grid of one block.
  Example<uint16_t> example({3, 700}, {700, 1}, 1);
  const auto expected = example.expected();
  MaskedTensors batch;
  batch.tensors[0] = example.masked();
  batch.first_block[1] = 1;
  batch.count = 1;
  launch(schedule(), 1, 64, &apply_masks_kernel, batch);
  EXPECT_EQ(example.data, expected);
}

TEST_P(ApplyMasksKernel, ServesManyTensorsOfDifferentTypesInFewLaunches) {
  std::vector<Example<uint16_t>> halves;
  std::vector<Example<uint32_t>> floats;
  std::vector<MaskedTensor> tensors;
  for (int64_t i = 0; i < 35; ++i) {
    halves.emplace_back(Dims{i % 4, 10 + i}, Dims{10 + i, 1}, static_cast<uint64_t>(i));
    floats.emplace_back(Dims{3, 5 + 40 * i}, Dims{5 + 40 * i, 1}, static_cast<uint64_t>(i));
  }
  std::vector<std::vector<uint16_t>> expected_halves;
  std::vector<std::vector<uint32_t>> expected_floats;
  for (size_t i = 0; i < halves.size(); ++i) {
    expected_halves.push_back(halves[i].expected());
    expected_floats.push_back(floats[i].expected());
    tensors.push_back(halves[i].masked());
    tensors.push_back(floats[i].masked());
  }
  launch_apply_masks(launcher(), tensors);
  for (size_t i = 0; i < halves.size(); ++i) {
    EXPECT_EQ(halves[i].data, expected_halves[i]) << i;
    EXPECT_EQ(floats[i].data, expected_floats[i]) << i;
  }
  EXPECT_EQ(launches(), 2) << "61 tensors that are not empty, 32 a launch";
}

TEST_P(ApplyMasksKernel, DoesNotLaunchForNothing) {
  MaskedTensor empty;
  launch_apply_masks(launcher(), {});
  launch_apply_masks(launcher(), std::span(&empty, 1));
  EXPECT_EQ(launches(), 0);
}

TEST(MaskedTensorLayout, MergesDimensionsThatLieBehindOneAnother) {
  MaskedTensor tensor;
  EXPECT_TRUE(set_layout(tensor, Dims{8, 3, 5, 5}, Dims{75, 25, 5, 1}));
  EXPECT_EQ(tensor.dims, 1);
  EXPECT_EQ(tensor.sizes[0], 600);
  EXPECT_EQ(tensor.strides[0], 1);
  EXPECT_TRUE(set_layout(tensor, Dims{8, 3, 5, 5}, Dims{75, 1, 15, 3}));
  EXPECT_EQ(tensor.dims, 3);
}

TEST(MaskedTensorLayout, RefusesMoreDimensionsThanItsDescriptionHolds) {
  MaskedTensor tensor;
  EXPECT_TRUE(set_layout(tensor, Dims{2, 2, 2, 2, 2, 1}, Dims{1, 2, 4, 8, 16, 32}));
  EXPECT_FALSE(set_layout(tensor, Dims{2, 2, 2, 2, 2, 2}, Dims{1, 2, 4, 8, 16, 32}));
}

}  // namespace
}  // namespace pomona::emulator
