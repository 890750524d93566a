#pragma once
// Zeroes the elements of many tensors whose mask bits are 0, in few launches. The masks' layout is
// that of csrc/prune/apply_masks_kernel.h: rows of bits, each padded to whole bytes.
//
// Only pruned elements are touched, and only written: a step costs the mask's bits plus a store for
// each pruned weight, not a pass over the weights. An element is an unsigned integer of its size,
// so every dtype is served and the tensors of one launch may differ in it.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <span>

namespace pomona {

// Dimensions that a tensor may keep when those that lie behind one another in memory are merged.
inline constexpr int kMaskedDims = 5;
// Tensors of one launch: their descriptions travel as kernel parameters, at most 4 KB.
inline constexpr int kMaskedTensors = 32;
inline constexpr unsigned kMaskThreads = 256;

struct MaskedTensor {
  void* data = nullptr;           // device, `size` elements
  const uint8_t* mask = nullptr;  // device, [size / row_size, ceil(row_size / 8)]
  int64_t size = 0;
  int64_t row_size = 0;  // elements of one row: of everything but dimension 0
  int element_size = 0;  // bytes: 1, 2, 4 or 8
  int dims = 0;
  int64_t sizes[kMaskedDims] = {};    // of the logical row-major order
  int64_t strides[kMaskedDims] = {};  // in elements
};

struct MaskedTensors {
  MaskedTensor tensors[kMaskedTensors];
  // Tensor t is served by blocks first_block[t] to first_block[t + 1].
  unsigned first_block[kMaskedTensors + 1] = {};
  int count = 0;
};
static_assert(sizeof(MaskedTensors) <= 4096);

// Sets dims, sizes and strides, with neighbours merged where they are contiguous (so a contiguous
// tensor has one dimension). False when more than kMaskedDims remain.
inline bool set_layout(MaskedTensor& tensor, std::span<const int64_t> sizes,
                       std::span<const int64_t> strides) {
  tensor.dims = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 1) continue;
    const int last = tensor.dims - 1;
    if (last >= 0 && tensor.strides[last] == sizes[d] * strides[d]) {
      tensor.sizes[last] *= sizes[d];
      tensor.strides[last] = strides[d];
      continue;
    }
    if (tensor.dims == kMaskedDims) return false;
    tensor.sizes[tensor.dims] = sizes[d];
    tensor.strides[tensor.dims] = strides[d];
    ++tensor.dims;
  }
  return true;
}

// a / b for a >= 0, b > 0. A GPU divides 64 bits in about 70 instructions, 32 bits in about 20.
__device__ __forceinline__ int64_t divide(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// The mask's bit of element i of the logical row-major order.
__device__ __forceinline__ bool is_kept(const MaskedTensor& tensor, int64_t i) {
  const int64_t padding = -tensor.row_size & 7;  // bits at the end of each row
  const int64_t bit = padding == 0 ? i : i + divide(i, tensor.row_size) * padding;
  return ((tensor.mask[bit >> 3] >> (bit & 7)) & 1) != 0;
}

// Where element i of the logical row-major order lies, in elements.
__device__ __forceinline__ int64_t offset_of(const MaskedTensor& tensor, int64_t i) {
  int64_t offset = 0;
  for (int d = tensor.dims - 1; d > 0; --d) {
    const int64_t rest = divide(i, tensor.sizes[d]);
    offset += (i - rest * tensor.sizes[d]) * tensor.strides[d];
    i = rest;
  }
  return tensor.dims > 0 ? offset + i * tensor.strides[0] : 0;
}

// Elements first, first + step, ... REQUIRES: 0 <= first, 0 < step.
template <class Word>
__device__ void zero_pruned(const MaskedTensor& tensor, int64_t first, int64_t step) {
  Word* data = static_cast<Word*>(tensor.data);
  for (int64_t i = first; i < tensor.size; i += step) {
    if (!is_kept(tensor, i)) data[offset_of(tensor, i)] = 0;
  }
}

__global__ void __launch_bounds__(kMaskThreads)
    apply_masks_kernel(const __grid_constant__ MaskedTensors batch) {
  int t = 0;
  while (blockIdx.x >= batch.first_block[t + 1]) ++t;
  const MaskedTensor& tensor = batch.tensors[t];
  const int64_t block = blockIdx.x - batch.first_block[t];
  const int64_t blocks = batch.first_block[t + 1] - batch.first_block[t];
  const int64_t first = block * blockDim.x + threadIdx.x, step = blocks * blockDim.x;
  switch (tensor.element_size) {
    case 1:
      return zero_pruned<uint8_t>(tensor, first, step);
    case 2:
      return zero_pruned<uint16_t>(tensor, first, step);
    case 4:
      return zero_pruned<uint32_t>(tensor, first, step);
    default:
      return zero_pruned<uint64_t>(tensor, first, step);
  }
}

// Zeroes what the masks prune, kMaskedTensors tensors a launch; empty tensors take no part.
// REQUIRES: set_layout succeeded for each.
template <class Launch>
void launch_apply_masks(const Launch& launch, std::span<const MaskedTensor> tensors) {
  constexpr int64_t kPerThread = 4;
  constexpr int64_t kMaxBlocks = 4096;  // of one tensor: about four waves of a large GPU
  MaskedTensors batch;
  const auto flush = [&] {
    if (batch.count > 0) {
      launch(&apply_masks_kernel, batch.first_block[batch.count], kMaskThreads, batch);
    }
    batch.count = 0;
  };
  for (const MaskedTensor& tensor : tensors) {
    if (tensor.size == 0) continue;
    const int64_t per_block = kMaskThreads * kPerThread;
    const int64_t blocks = std::min((tensor.size + per_block - 1) / per_block, kMaxBlocks);
    batch.tensors[batch.count] = tensor;
    batch.first_block[batch.count + 1] =
        batch.first_block[batch.count] + static_cast<unsigned>(blocks);
    if (++batch.count == kMaskedTensors) flush();
  }
  flush();
}

}  // namespace pomona
