#pragma once
// lookup and centroid_grad (thesis §4.3) on the GPU. Codes are packed as in
// csrc/quantize/codebook_kernel.h: 1, 2, 4 or 8 bits, low bits first.
//
// centroid_grad adds without atomics, so its bits depend on nothing but its input: each thread has
// a column of k accumulators of its own in shared memory (bank = thread, so no two threads of a
// warp collide, whatever their codes), a block adds its columns in a fixed order, and a second
// kernel adds the blocks' sums in a fixed order, in double.
//
//   accumulators        thread 0  thread 1  ...
//     code 0               .         .
//     code 1               .         .              32 KB dealt out: 256 threads for k <= 32,
//     ...                                           fewer for more codes (32 for k = 256)
//     code k - 1           .         .

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace pomona {

inline constexpr int kTableEntries = 256;  // codes are at most a byte
inline constexpr unsigned kLookupThreads = 256;
inline constexpr int kAccumulatorBytes = 32 << 10;
inline constexpr int64_t kMaxSumBlocks = 2048;
inline constexpr unsigned kPartialThreads = 128;  // of the second kernel: a warp a code

// Reads packed codes.
struct PackedCodes {
  const uint8_t* bytes;  // device
  int bits;
  int log2_per_byte;

  PackedCodes(const uint8_t* packed, int64_t bits_per_code)
      : bytes(packed),
        bits(static_cast<int>(bits_per_code)),
        log2_per_byte(bits == 8   ? 0
                      : bits == 4 ? 1
                      : bits == 2 ? 2
                                  : 3) {}

  __device__ __forceinline__ int operator[](int64_t i) const {
    const int in_byte = static_cast<int>(i & ((1 << log2_per_byte) - 1));
    return (bytes[i >> log2_per_byte] >> (in_byte * bits)) & ((1 << bits) - 1);
  }
};

// out[i] = codebook[codes[i]]; codes from `entries` on give all ones, which is a NaN in every
// floating-point format. Word: the unsigned integer of an element's size.
template <class Word>
__global__ void __launch_bounds__(kLookupThreads)
    lookup_kernel(const Word* __restrict__ codebook, int entries, PackedCodes codes, int64_t size,
                  Word* __restrict__ out) {
  __shared__ Word table[kTableEntries];
  for (int code = static_cast<int>(threadIdx.x); code < kTableEntries;
       code += static_cast<int>(blockDim.x)) {
    table[code] = code < entries ? codebook[code] : static_cast<Word>(~Word{0});
  }
  __syncthreads();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step) {
    out[i] = table[codes[i]];
  }
}

// partials[code * gridDim.x + block] = the block's share of sums[code]. Codes from k on are
// dropped. REQUIRES: k * blockDim.x * sizeof(Sum) <= kAccumulatorBytes, blockDim.x a power of two.
template <class Grad, class Sum>
__global__ void sum_by_code_kernel(const Grad* __restrict__ grad, PackedCodes codes, int64_t size,
                                   int k, Sum* __restrict__ partials) {
  __shared__ Sum accumulators[kAccumulatorBytes / sizeof(Sum)];
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  Sum* column = accumulators + thread;
  for (int code = 0; code < k; ++code) column[code * threads] = Sum(0);
  const int64_t step = int64_t{gridDim.x} * threads;
  for (int64_t i = int64_t{blockIdx.x} * threads + thread; i < size; i += step) {
    const int code = codes[i];
    if (code < k) column[code * threads] += static_cast<Sum>(grad[i]);
  }
  __syncthreads();
  for (int code = thread; code < k; code += threads) {
    const Sum* row = accumulators + code * threads;
    Sum sum = 0;
    // Each thread begins at its own column, so that the threads of a warp use different banks.
    for (int c = 0; c < threads; ++c) sum += row[(thread + c) & (threads - 1)];
    partials[int64_t{code} * gridDim.x + blockIdx.x] = sum;
  }
}

// sums[code] = the sum of partials[code * blocks ...]; one warp a code.
template <class Sum>
__global__ void __launch_bounds__(kPartialThreads)
    add_partials_kernel(const Sum* __restrict__ partials, int64_t blocks, int k,
                        Sum* __restrict__ sums) {
  const int lane = static_cast<int>(threadIdx.x) % warpSize;
  const int code = static_cast<int>(blockIdx.x * (blockDim.x / warpSize) + threadIdx.x / warpSize);
  if (code >= k) return;  // the same for all lanes of a warp
  double sum = 0;
  for (int64_t b = lane; b < blocks; b += warpSize) {
    sum += static_cast<double>(partials[code * blocks + b]);
  }
  for (int delta = warpSize / 2; delta > 0; delta /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, delta);
  }
  if (lane == 0) sums[code] = static_cast<Sum>(sum);
}

// out [size] of `codebook` [entries] and packed codes, all on the device; nothing when size is 0.
template <class Word, class Launch>
void launch_lookup(const Launch& launch, const Word* codebook, int64_t entries,
                   const uint8_t* codes, int64_t bits, int64_t size, Word* out) {
  constexpr int64_t kPerThread = 8;     // or a block would do little but load the table
  constexpr int64_t kMaxBlocks = 8192;  // from there on, more for each thread
  if (size == 0) return;
  const int64_t per_block = kLookupThreads * kPerThread;
  const auto blocks =
      static_cast<unsigned>(std::min((size + per_block - 1) / per_block, kMaxBlocks));
  launch(&lookup_kernel<Word>, blocks, kLookupThreads, codebook, static_cast<int>(entries),
         PackedCodes(codes, bits), size, out);
}

// How a sum over `size` elements and k codes is split. It depends on nothing else: not on the
// device.
struct SumGrid {
  unsigned blocks;
  unsigned threads;
};

template <class Sum>
SumGrid sum_grid(int64_t size, int64_t k) {
  constexpr int64_t kPerThread = 32;
  int64_t threads = 256;
  while (k * threads * static_cast<int64_t>(sizeof(Sum)) > kAccumulatorBytes) threads /= 2;
  const int64_t per_block = threads * kPerThread;
  const int64_t blocks = std::clamp<int64_t>((size + per_block - 1) / per_block, 1, kMaxSumBlocks);
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(threads)};
}

// sums [k] of grad [size] by packed codes. `partials` is scratch of k * grid.blocks elements, where
// grid is sum_grid<Sum>(size, k). An empty grad gives zeros.
template <class Grad, class Sum, class Launch>
void launch_centroid_grad(const Launch& launch, SumGrid grid, const Grad* grad,
                          const uint8_t* codes, int64_t bits, int64_t size, int64_t k,
                          Sum* partials, Sum* sums) {
  const int entries = static_cast<int>(k);
  launch(&sum_by_code_kernel<Grad, Sum>, grid.blocks, grid.threads, grad, PackedCodes(codes, bits),
         size, entries, partials);
  constexpr unsigned kCodesPerBlock = kPartialThreads / 32;
  const unsigned blocks = (static_cast<unsigned>(k) + kCodesPerBlock - 1) / kCodesPerBlock;
  launch(&add_partials_kernel<Sum>, blocks, kPartialThreads, partials, int64_t{grid.blocks},
         entries, sums);
}

}  // namespace pomona
