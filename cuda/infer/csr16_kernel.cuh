#pragma once
// y = W x + bias on the layout csr16 (drawn in csrc/infer/csr16_kernel.h) on the GPU: a warp a row.
//
// The lanes of a warp take the entries of a row in turn, so columns and codes are read side by
// side; each entry is read once for a tile of rows of x; a butterfly of shuffles adds the lanes.
// Sums do not depend on the grid or the batch, but their order is not the CPU's.

#include "infer/csr16_kernel.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace pomona {

inline constexpr unsigned kCsr16Threads = 256;  // eight rows a block
inline constexpr int kCsr16BatchTile = 8;
inline constexpr int kCsr16Codes = 256;

// What a launch is about; every pointer is on the device.
struct Csr16Product {
  const std::byte* packed;  // csr16, aligned to 8 bytes
  int64_t packed_size;
  int64_t rows, cols, panels;
  const float* x;  // [batch, cols]
  int64_t batch;
  const float* bias;  // [rows] or null
  float* y;           // [batch, rows]
};

// Whether the buffer is what the caller takes it for: the host cannot look before the launch.
__device__ __forceinline__ bool fits(const Csr16Header& header, const Csr16Product& product) {
  return header.magic == kCsr16Magic && header.layout == static_cast<uint8_t>(Layout::kCsr16) &&
         header.version == kCsr16Version && header.size == product.packed_size &&
         header.rows == product.rows && header.cols == product.cols;
}

// Adds this lane's entries of one row times kTile rows of x. `count` of them exist.
template <int kTile>
__device__ __forceinline__ void add_row(const Csr16Header& header, const Csr16Product& product,
                                        const float* table, int64_t row, const float* x, int count,
                                        float (&sums)[kTile]) {
  const auto* row_starts = reinterpret_cast<const int64_t*>(product.packed + header.row_starts_at);
  const auto* columns = reinterpret_cast<const uint16_t*>(product.packed + header.columns_at);
  const auto* codes = reinterpret_cast<const uint8_t*>(product.packed + header.weights_at);
  const auto* values = reinterpret_cast<const float*>(product.packed + header.weights_at);
  const bool is_shared = header.centroids > 0;
  const int lane = static_cast<int>(threadIdx.x) % warpSize;
  for (int64_t panel = 0; panel < product.panels; ++panel) {
    const int64_t* segment = row_starts + row * product.panels + panel;
    const float* from = x + panel * kCsr16PanelCols;
    for (int64_t entry = segment[0] + lane; entry < segment[1]; entry += warpSize) {
      const float weight = is_shared ? table[codes[entry]] : values[entry];
      const float* input = from + columns[entry];
      for (int t = 0; t < kTile; ++t) {
        if (t < count) sums[t] += weight * input[t * product.cols];
      }
    }
  }
}

// Block (i, j) serves rows 8 i to 8 i + 7 of y and tile j of the batch, then those a grid further.
template <int kTile>
__global__ void __launch_bounds__(kCsr16Threads) csr16_multiply_kernel(const Csr16Product product) {
  __shared__ float table[kCsr16Codes];
  const auto& header = *reinterpret_cast<const Csr16Header*>(product.packed);
  const bool is_right = fits(header, product);
  const auto thread = static_cast<int>(threadIdx.x);
  if (is_right && thread < static_cast<int>(header.centroids)) {
    table[thread] = reinterpret_cast<const float*>(product.packed + header.codebook_at)[thread];
  }
  __syncthreads();
  const unsigned rows_per_block = kCsr16Threads / static_cast<unsigned>(warpSize);
  const int64_t row_step = int64_t{gridDim.x} * rows_per_block;
  const int64_t first_row = int64_t{blockIdx.x} * rows_per_block + thread / warpSize;
  for (int64_t first = int64_t{blockIdx.y} * kTile; first < product.batch;
       first += int64_t{gridDim.y} * kTile) {
    const int count = static_cast<int>(min(product.batch - first, int64_t{kTile}));
    for (int64_t row = first_row; row < product.rows; row += row_step) {
      float sums[kTile] = {};
      if (is_right) {
        add_row<kTile>(header, product, table, row, product.x + first * product.cols, count, sums);
      }
      for (int t = 0; t < count; ++t) {
        float sum = sums[t];
        for (int delta = warpSize / 2; delta > 0; delta /= 2) {
          sum += __shfl_xor_sync(0xffffffffu, sum, delta);
        }
        if (product.bias != nullptr) sum += product.bias[row];
        if (thread % warpSize == 0) {
          product.y[(first + t) * product.rows + row] = is_right ? sum : NAN;
        }
      }
    }
  }
}

// y of every row and every row of x; NaN where the buffer's header is not that of a csr16 matrix
// [rows, cols] of packed_size bytes. Nothing when y is empty. REQUIRES: packed_size >=
// sizeof(Csr16Header); the sections are what check_csr16 accepts.
template <class Launch>
void launch_csr16_multiply(const Launch& launch, const Csr16Product& product) {
  constexpr int64_t kMaxRowBlocks = 1 << 20, kMaxBatchBlocks = 65535;
  constexpr int64_t kRowsPerBlock = kCsr16Threads / 32;
  if (product.batch == 0 || product.rows == 0) return;
  const auto blocks = [](int64_t count, int64_t each, int64_t most) {
    return static_cast<unsigned>(std::min((count + each - 1) / each, most));
  };
  const unsigned row_blocks = blocks(product.rows, kRowsPerBlock, kMaxRowBlocks);
  if (product.batch == 1) {
    launch(&csr16_multiply_kernel<1>, row_blocks, kCsr16Threads, product);
    return;
  }
  const dim3 grid(row_blocks, blocks(product.batch, kCsr16BatchTile, kMaxBatchBlocks));
  launch(&csr16_multiply_kernel<kCsr16BatchTile>, grid, kCsr16Threads, product);
}

}  // namespace pomona
