#pragma once
// lookup and centroid_grad (thesis §4.3) on the GPU. Codes are packed as in
// csrc/quantize/codebook_kernel.h: 1, 2, 4 or 8 bits, low bits first; `group` elements in a row
// share a codebook.
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

// out[i] = codebooks[i / group][codes[i]]; codes from `entries` on give all ones, which is a NaN in
// every floating-point format. Word: the unsigned integer of an element's size. kShared: one group,
// whose codebook goes to shared memory.
template <bool kShared, class Word>
__global__ void __launch_bounds__(kLookupThreads)
    lookup_kernel(const Word* __restrict__ codebooks, int entries, PackedCodes codes, int64_t size,
                  int64_t group, Word* __restrict__ out) {
  __shared__ Word table[kShared ? kTableEntries : 1];
  const Word nan = static_cast<Word>(~Word{0});
  if (kShared) {
    for (int code = static_cast<int>(threadIdx.x); code < kTableEntries;
         code += static_cast<int>(blockDim.x)) {
      table[code] = code < entries ? codebooks[code] : nan;
    }
    __syncthreads();
  }
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step) {
    const int code = codes[i];
    if (kShared) {
      out[i] = table[code];
    } else {
      out[i] = code < entries ? codebooks[i / group * entries + code] : nan;
    }
  }
}

// What centroid_grad adds up: the gradient.
template <class Grad>
struct GradTerm {
  const Grad* grad;  // device
  template <class Sum>
  __device__ __forceinline__ Sum term(int64_t i, int64_t) const {
    return static_cast<Sum>(grad[i]);
  }
};

// partials[cluster * blocks + b] = the share of sums[cluster] that block b of its group has;
// cluster = group * k + code, blockIdx.x = group * blocks + b. Codes from k on are dropped.
// REQUIRES: k * blockDim.x * sizeof(Sum) <= kAccumulatorBytes, blockDim.x a power of two.
template <class Term, class Sum>
__global__ void sum_by_code_kernel(Term terms, PackedCodes codes, int64_t size, int64_t group,
                                   int k, int blocks, Sum* __restrict__ partials) {
  __shared__ Sum accumulators[kAccumulatorBytes / sizeof(Sum)];
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  Sum* column = accumulators + thread;
  for (int code = 0; code < k; ++code) column[code * threads] = Sum(0);
  const int64_t g = blockIdx.x / blocks, block = blockIdx.x % blocks;
  const int64_t last = (g + 1) * group < size ? (g + 1) * group : size;
  const int64_t step = int64_t{blocks} * threads;
  for (int64_t i = g * group + block * threads + thread; i < last; i += step) {
    const int code = codes[i];
    if (code < k) column[code * threads] += terms.template term<Sum>(i, g * k + code);
  }
  __syncthreads();
  for (int code = thread; code < k; code += threads) {
    const Sum* row = accumulators + code * threads;
    Sum sum = 0;
    // Each thread begins at its own column, so that the threads of a warp use different banks.
    for (int c = 0; c < threads; ++c) sum += row[(thread + c) & (threads - 1)];
    partials[(g * k + code) * blocks + block] = sum;
  }
}

// finish(cluster, the sum of partials[cluster * blocks ...]) by one thread; one warp a cluster.
template <class Sum, class Finish>
__global__ void __launch_bounds__(kPartialThreads)
    add_partials_kernel(const Sum* __restrict__ partials, int64_t blocks, int64_t clusters,
                        Finish finish) {
  const int lane = static_cast<int>(threadIdx.x) % warpSize;
  const int64_t cluster = int64_t{blockIdx.x} * (blockDim.x / warpSize) + threadIdx.x / warpSize;
  if (cluster >= clusters) return;  // the same for all lanes of a warp
  double sum = 0;
  for (int64_t b = lane; b < blocks; b += warpSize) {
    sum += static_cast<double>(partials[cluster * blocks + b]);
  }
  for (int delta = warpSize / 2; delta > 0; delta /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, delta);
  }
  if (lane == 0) finish(cluster, sum);
}

// What centroid_grad does with a sum: keeps it.
template <class Sum>
struct StoreSum {
  Sum* sums;  // device
  __device__ __forceinline__ void operator()(int64_t cluster, double sum) const {
    sums[cluster] = static_cast<Sum>(sum);
  }
};

// How elements and codebooks go together; see csrc/quantize/codebook_kernel.h.
struct DeviceLayout {
  const uint8_t* codes;  // device, packed
  int64_t bits;
  int64_t size;
  int64_t group;  // at least 1
  int64_t k;

  int64_t groups() const { return (size + group - 1) / group; }
};

// out [size] of `codebooks` [groups, k], all on the device; nothing when size is 0.
template <class Word, class Launch>
void launch_lookup(const Launch& launch, const Word* codebooks, const DeviceLayout& layout,
                   Word* out) {
  constexpr int64_t kPerThread = 8;     // or a block would do little but load the table
  constexpr int64_t kMaxBlocks = 8192;  // from there on, more for each thread
  if (layout.size == 0) return;
  const int64_t per_block = kLookupThreads * kPerThread;
  const auto blocks =
      static_cast<unsigned>(std::min((layout.size + per_block - 1) / per_block, kMaxBlocks));
  const auto kernel =
      layout.groups() == 1 ? &lookup_kernel<true, Word> : &lookup_kernel<false, Word>;
  launch(kernel, blocks, kLookupThreads, codebooks, static_cast<int>(layout.k),
         PackedCodes(layout.codes, layout.bits), layout.size, layout.group, out);
}

// How the sums of one layout are split. It depends on nothing else: not on the device.
struct SumGrid {
  unsigned blocks;  // of each group
  unsigned threads;
};

template <class Sum>
SumGrid sum_grid(const DeviceLayout& layout) {
  constexpr int64_t kPerThread = 32;
  int64_t threads = 256;
  while (layout.k * threads * static_cast<int64_t>(sizeof(Sum)) > kAccumulatorBytes) threads /= 2;
  const int64_t per_block = threads * kPerThread;
  const int64_t each = std::min(layout.group, std::max<int64_t>(layout.size, 1));
  const int64_t most = std::max<int64_t>(1, kMaxSumBlocks / std::max<int64_t>(layout.groups(), 1));
  const int64_t blocks = std::clamp<int64_t>((each + per_block - 1) / per_block, 1, most);
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(threads)};
}

// Elements of scratch that launch_sums takes.
inline int64_t partial_count(const DeviceLayout& layout, SumGrid grid) {
  return std::max<int64_t>(layout.groups(), 1) * layout.k * grid.blocks;
}

// finish(cluster, sum of its terms) for the clusters [groups, k] of a layout (of one group, if it
// is empty). `partials`: partial_count() elements, on the device.
template <class Sum, class Term, class Finish, class Launch>
void launch_sums(const Launch& launch, const DeviceLayout& layout, SumGrid grid, const Term& terms,
                 Sum* partials, const Finish& finish) {
  const int64_t groups = std::max<int64_t>(layout.groups(), 1), clusters = groups * layout.k;
  launch(&sum_by_code_kernel<Term, Sum>, static_cast<unsigned>(groups) * grid.blocks, grid.threads,
         terms, PackedCodes(layout.codes, layout.bits), layout.size, layout.group,
         static_cast<int>(layout.k), static_cast<int>(grid.blocks), partials);
  constexpr int64_t kPerBlock = kPartialThreads / 32;
  const auto blocks = static_cast<unsigned>((clusters + kPerBlock - 1) / kPerBlock);
  launch(&add_partials_kernel<Sum, Finish>, blocks, kPartialThreads, partials, int64_t{grid.blocks},
         clusters, finish);
}

// sums [groups, k] of grad [size]. An empty grad gives zeros.
template <class Grad, class Sum, class Launch>
void launch_centroid_grad(const Launch& launch, const DeviceLayout& layout, SumGrid grid,
                          const Grad* grad, Sum* partials, Sum* sums) {
  launch_sums(launch, layout, grid, GradTerm<Grad>{grad}, partials, StoreSum<Sum>{sums});
}

}  // namespace pomona
