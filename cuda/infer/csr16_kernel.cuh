#pragma once
// The layout csr16 (drawn in csrc/infer/csr16_kernel.h) on the GPU: y = W x + bias, W itself, and
// rows of it; a warp a row.
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

inline constexpr unsigned kCsr16Threads = 256;
inline constexpr unsigned kCsr16RowsPerBlock = kCsr16Threads / 32;
inline constexpr int64_t kCsr16MaxRowBlocks = 1 << 20;  // from there on, more rows for each warp
inline constexpr int kCsr16BatchTile = 8;
inline constexpr int kCsr16Codes = 256;

// Packed bytes on the device, aligned to 8, and what the caller takes them for: the host cannot
// look at the header before the launch, so the kernels compare it, and give NaN where it differs.
struct Csr16Buffer {
  const std::byte* bytes = nullptr;
  int64_t size = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t panels = 1;  // csr16_panels(cols)
};

// The sections of the buffer. False when it is no csr16 matrix [rows, cols] of `size` bytes; then
// nothing but the header was read.
__device__ __forceinline__ bool view_on_device(const Csr16Buffer& buffer, Csr16View& view) {
  const auto& header = *reinterpret_cast<const Csr16Header*>(buffer.bytes);
  if (header.magic != kPackedMagic || header.layout != static_cast<uint8_t>(Layout::kCsr16) ||
      header.version != kCsr16Version || header.size != buffer.size || header.rows != buffer.rows ||
      header.cols != buffer.cols) {
    return false;
  }
  view.rows = header.rows;
  view.cols = header.cols;
  view.panels = buffer.panels;
  view.centroids = header.centroids;
  view.row_starts = reinterpret_cast<const int64_t*>(buffer.bytes + header.row_starts_at);
  view.columns = reinterpret_cast<const uint16_t*>(buffer.bytes + header.columns_at);
  if (header.centroids > 0) {
    view.codes = reinterpret_cast<const uint8_t*>(buffer.bytes + header.weights_at);
    view.codebook = reinterpret_cast<const float*>(buffer.bytes + header.codebook_at);
  } else {
    view.values = reinterpret_cast<const float*>(buffer.bytes + header.weights_at);
  }
  return true;
}

// Calls entry(column, weight) for this lane's entries of a row. `codebook` may be a copy of the
// matrix's; it is not read when there are no codes.
template <class Entry>
__device__ __forceinline__ void for_each_entry_of_lane(const Csr16View& matrix,
                                                       const float* codebook, int64_t row,
                                                       const Entry& entry) {
  const int lane = static_cast<int>(threadIdx.x) % warpSize;
  for (int64_t panel = 0; panel < matrix.panels; ++panel) {
    const int64_t* segment = matrix.row_starts + row * matrix.panels + panel;
    for (int64_t e = segment[0] + lane; e < segment[1]; e += warpSize) {
      const float weight = matrix.codes != nullptr ? codebook[matrix.codes[e]] : matrix.values[e];
      entry(panel * kCsr16PanelCols + matrix.columns[e], weight);
    }
  }
}

// The sum of `value` over the lanes of the warp, in every lane.
__device__ __forceinline__ float sum_of_lanes(float value) {
  for (int delta = warpSize / 2; delta > 0; delta /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, delta);
  }
  return value;
}

// The row of this warp; the rows of the grid's next round begin row_step() later.
__device__ __forceinline__ int64_t first_row() {
  return int64_t{blockIdx.x} * kCsr16RowsPerBlock + threadIdx.x / static_cast<unsigned>(warpSize);
}
__device__ __forceinline__ int64_t row_step() {
  return int64_t{gridDim.x} * kCsr16RowsPerBlock;
}

// y [batch, rows] of x [batch, cols]; bias [rows] or null; all on the device.
struct Csr16Product {
  Csr16Buffer weight;
  const float* x = nullptr;
  int64_t batch = 0;
  const float* bias = nullptr;
  float* y = nullptr;
};

// Block (i, j) serves eight rows of W and tile j of the batch, then those a grid further on.
template <int kTile>
__global__ void __launch_bounds__(kCsr16Threads) csr16_multiply_kernel(const Csr16Product product) {
  __shared__ float codebook[kCsr16Codes];
  Csr16View matrix;
  const bool is_right = view_on_device(product.weight, matrix);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < matrix.centroids) codebook[thread] = matrix.codebook[thread];
  __syncthreads();
  const int64_t rows = product.weight.rows, cols = product.weight.cols;
  for (int64_t first = int64_t{blockIdx.y} * kTile; first < product.batch;
       first += int64_t{gridDim.y} * kTile) {
    const int count = static_cast<int>(min(product.batch - first, int64_t{kTile}));
    const float* x = product.x + first * cols;
    for (int64_t row = first_row(); row < rows; row += row_step()) {
      float sums[kTile] = {};
      if (is_right) {
        for_each_entry_of_lane(matrix, codebook, row, [&](int64_t column, float weight) {
          for (int t = 0; t < kTile; ++t) {
            if (t < count) sums[t] += weight * x[t * cols + column];
          }
        });
      }
      const float bias = product.bias != nullptr ? product.bias[row] : 0.0f;
      for (int t = 0; t < kTile; ++t) {
        const float sum = sum_of_lanes(sums[t]);
        if (thread % warpSize == 0 && t < count) {
          product.y[(first + t) * rows + row] = is_right ? sum + bias : NAN;
        }
      }
    }
  }
}

// The stored weights of a row into `to` [cols], by the lanes of a warp; NaN when there is no such
// row.
__device__ __forceinline__ void unpack_row_by_lanes(const Csr16View& matrix, bool is_there,
                                                    int64_t row, int64_t cols, float* to) {
  if (is_there) {
    for_each_entry_of_lane(matrix, matrix.codebook, row,
                           [&](int64_t column, float weight) { to[column] = weight; });
    return;
  }
  for (int64_t column = static_cast<int>(threadIdx.x) % warpSize; column < cols;
       column += warpSize) {
    to[column] = NAN;
  }
}

// The stored weights into dense [rows, cols]. REQUIRES: dense holds zeros.
__global__ void __launch_bounds__(kCsr16Threads)
    csr16_unpack_kernel(const Csr16Buffer buffer, float* __restrict__ dense) {
  Csr16View matrix;
  const bool is_right = view_on_device(buffer, matrix);
  for (int64_t row = first_row(); row < buffer.rows; row += row_step()) {
    unpack_row_by_lanes(matrix, is_right, row, buffer.cols, dense + row * buffer.cols);
  }
}

// Rows indices[0 .. count) into dense [count, cols]. REQUIRES: dense holds zeros.
__global__ void __launch_bounds__(kCsr16Threads)
    csr16_gather_kernel(const Csr16Buffer buffer, const int64_t* __restrict__ indices,
                        int64_t count, float* __restrict__ dense) {
  Csr16View matrix;
  const bool is_right = view_on_device(buffer, matrix);
  for (int64_t i = first_row(); i < count; i += row_step()) {
    const int64_t row = indices[i];
    const bool is_there = is_right && row >= 0 && row < buffer.rows;
    unpack_row_by_lanes(matrix, is_there, row, buffer.cols, dense + i * buffer.cols);
  }
}

inline unsigned csr16_row_blocks(int64_t rows) {
  const int64_t blocks = (rows + kCsr16RowsPerBlock - 1) / kCsr16RowsPerBlock;
  return static_cast<unsigned>(std::min(blocks, kCsr16MaxRowBlocks));
}

// y of every row and every row of x; NaN where the buffer is another matrix's. Nothing when y is
// empty. REQUIRES: at least sizeof(Csr16Header) bytes; sections that check_csr16 accepts.
template <class Launch>
void launch_csr16_multiply(const Launch& launch, const Csr16Product& product) {
  constexpr int64_t kMaxBatchBlocks = 65535;
  if (product.batch == 0 || product.weight.rows == 0) return;
  const unsigned row_blocks = csr16_row_blocks(product.weight.rows);
  if (product.batch == 1) {
    launch(&csr16_multiply_kernel<1>, row_blocks, kCsr16Threads, product);
    return;
  }
  const int64_t tiles = (product.batch + kCsr16BatchTile - 1) / kCsr16BatchTile;
  const dim3 grid(row_blocks, static_cast<unsigned>(std::min(tiles, kMaxBatchBlocks)));
  launch(&csr16_multiply_kernel<kCsr16BatchTile>, grid, kCsr16Threads, product);
}

// W; NaN where the buffer is another matrix's. REQUIRES: as above, and dense holds zeros.
template <class Launch>
void launch_csr16_unpack(const Launch& launch, const Csr16Buffer& buffer, float* dense) {
  if (buffer.rows == 0 || buffer.cols == 0) return;
  launch(&csr16_unpack_kernel, csr16_row_blocks(buffer.rows), kCsr16Threads, buffer, dense);
}

// Rows of W; NaN for an index that is no row, and where the buffer is another matrix's. REQUIRES:
// as above.
template <class Launch>
void launch_csr16_gather(const Launch& launch, const Csr16Buffer& buffer, const int64_t* indices,
                         int64_t count, float* dense) {
  if (count == 0 || buffer.cols == 0) return;
  launch(&csr16_gather_kernel, csr16_row_blocks(count), kCsr16Threads, buffer, indices, count,
         dense);
}

}  // namespace pomona
