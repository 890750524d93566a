#pragma once
// Selection of the smallest scores on the GPU: what csrc/prune/radix_select_kernel.h does to spans,
// and first_not_finite. Only integers are added, so no order of threads changes a bit. The cut and
// the masks are those of the CPU, ties by index included.
//
//   a warp has a range of mask words of its own and takes one word, 64 scores, at a time: lane l
//   has scores l and l + 32, and two ballots make a word of comparisons
//
//   words                  | w0 w1 w2 | w3 w4 w5 | w6 w7 w8 |     of warps 0, 1, 2
//   ties [warps]                2          0          1           count_ties_kernel
//   ties before the warp        0          2          2           prune_smallest_kernel adds them
//   up

#include "prune/radix_select_kernel.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace pomona {

inline constexpr unsigned kSelectThreads = 256;
inline constexpr unsigned kSelectLanes = 32;
inline constexpr unsigned kSelectWarps = kSelectThreads / kSelectLanes;  // of a block
inline constexpr int64_t kMaxSelectBlocks = 1024;  // about what a large GPU holds at a time

// Scores as bits, and their mask, on the device.
template <class Key>
struct LiveScores {
  const Key* bits;        // [size]
  const uint64_t* words;  // [ceil(size / 64)]; bits past the end are not read
  int64_t size;
  bool by_value;

  // key_of, for the device.
  __device__ __forceinline__ Key key(int64_t i) const {
    constexpr auto kMagnitude = static_cast<Key>(~(Key{1} << (sizeof(Key) * 8 - 1)));
    const Key score = bits[i];
    if (!by_value) return static_cast<Key>(score & kMagnitude);
    const auto sign = static_cast<Key>(score >> (sizeof(Key) * 8 - 1));  // 0 or -1
    return static_cast<Key>(score ^ (sign & kMagnitude));
  }
  __device__ __forceinline__ bool is_live(int64_t i) const {
    return ((words[i >> 6] >> (i & 63)) & 1) != 0;
  }
};

// The least index of a score that is not finite, in *first, which holds all ones before.
template <class Key>
__global__ void __launch_bounds__(kSelectThreads)
    first_not_finite_kernel(const Key* __restrict__ bits, int64_t size, Key infinity,
                            unsigned long long* first) {
  const LiveScores<Key> scores{bits, nullptr, size, false};
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step) {
    if (scores.key(i) < infinity) continue;
    atomicMin(first, static_cast<unsigned long long>(i));
    return;  // what this thread has left lies behind it
  }
}

// count_digits. A block counts in shared memory. REQUIRES: counts [kDigitValues], zero before;
// fewer than 2^32 scores a block.
template <class Key>
__global__ void __launch_bounds__(kSelectThreads)
    count_digits_kernel(LiveScores<Key> scores, KeyDigit digit, unsigned long long* counts) {
  using Biased = std::make_unsigned_t<Key>;
  constexpr int kKeyBits = static_cast<int>(sizeof(Key)) * 8;
  constexpr auto kSign = static_cast<Biased>(Biased{1} << (kKeyBits - 1));
  __shared__ unsigned block_counts[kDigitValues];
  for (unsigned v = threadIdx.x; v < kDigitValues; v += blockDim.x) block_counts[v] = 0;
  __syncthreads();
  const int above = digit.shift + kDigitBits;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < scores.size; i += step) {
    const auto key = static_cast<Biased>(static_cast<Biased>(scores.key(i)) ^ kSign);
    const bool matches = above >= kKeyBits || uint64_t{key} >> above == digit.prefix;
    if (matches && scores.is_live(i)) {
      atomicAdd(&block_counts[(key >> digit.shift) & (kDigitValues - 1)], 1u);
    }
  }
  __syncthreads();
  for (unsigned v = threadIdx.x; v < kDigitValues; v += blockDim.x) {
    if (block_counts[v] != 0) {
      atomicAdd(&counts[v], static_cast<unsigned long long>(block_counts[v]));
    }
  }
}

// How mask words are dealt out to warps: depends on the size alone.
struct SelectGrid {
  unsigned blocks;
  int64_t words_per_warp;

  int64_t warps() const { return int64_t{blocks} * kSelectWarps; }
};

inline SelectGrid select_grid(int64_t size, int64_t max_blocks = kMaxSelectBlocks) {
  constexpr int64_t kWordsPerWarp = 8;  // or a block would do little but add up ties
  const int64_t words = (size + 63) / 64;
  const int64_t per_block = kSelectWarps * kWordsPerWarp;
  const int64_t blocks = std::clamp<int64_t>((words + per_block - 1) / per_block, 1, max_blocks);
  const int64_t warps = blocks * kSelectWarps;
  return {static_cast<unsigned>(blocks), (words + warps - 1) / warps};
}

// The range of words of the calling warp.
struct WarpWords {
  int64_t begin;
  int64_t end;

  __device__ __forceinline__ WarpWords(int64_t size, int64_t words_per_warp) {
    const int64_t warp = int64_t{blockIdx.x} * kSelectWarps + threadIdx.x / kSelectLanes;
    const int64_t words = (size + 63) >> 6;
    begin = warp * words_per_warp < words ? warp * words_per_warp : words;
    end = begin + words_per_warp < words ? begin + words_per_warp : words;
  }
};

// Which of the 64 scores of word w are below a cut and which equal it: the same for all lanes.
// REQUIRES: called by a whole warp.
struct CutWord {
  uint64_t below = 0;
  uint64_t equal = 0;

  template <class Key>
  __device__ __forceinline__ CutWord(const LiveScores<Key>& scores, int64_t w, Key cut) {
    for (int half = 0; half < 2; ++half) {
      const int64_t i = w * 64 + half * 32 + threadIdx.x % kSelectLanes;
      const bool is_inside = i < scores.size;
      const Key key = is_inside ? scores.key(i) : Key{0};
      below |= uint64_t{__ballot_sync(0xffffffffu, is_inside && key < cut)} << (half * 32);
      equal |= uint64_t{__ballot_sync(0xffffffffu, is_inside && key == cut)} << (half * 32);
    }
  }
};

// ties[warp] = how many live scores of the warp's words equal the cut.
template <class Key>
__global__ void __launch_bounds__(kSelectThreads)
    count_ties_kernel(LiveScores<Key> scores, int64_t words_per_warp, Key cut,
                      unsigned long long* ties) {
  const WarpWords range(scores.size, words_per_warp);
  unsigned long long count = 0;
  for (int64_t w = range.begin; w < range.end; ++w) {
    const uint64_t live = scores.words[w];
    if (live == 0) continue;  // the same for all lanes
    count += static_cast<unsigned>(__popcll(live & CutWord(scores, w, cut).equal));
  }
  if (threadIdx.x % kSelectLanes == 0) {
    ties[blockIdx.x * kSelectWarps + threadIdx.x / kSelectLanes] = count;
  }
}

// The lowest `count` set bits of a word.
__device__ __forceinline__ uint64_t lowest_set(uint64_t word, int64_t count) {
  if (count >= __popcll(word)) return word;
  uint64_t lowest = 0;
  for (; count > 0; --count) {
    lowest |= word & (~word + 1);
    word &= word - 1;
  }
  return lowest;
}

// prune_up_to, into `out`. ties_of_warp is that of count_ties_kernel under the same grid; not read
// when no ties go.
template <class Key>
__global__ void __launch_bounds__(kSelectThreads)
    prune_smallest_kernel(LiveScores<Key> scores, int64_t words_per_warp, Key cut, int64_t ties,
                          const unsigned long long* __restrict__ ties_of_warp,
                          uint64_t* __restrict__ out) {
  __shared__ unsigned long long before_block;
  if (threadIdx.x == 0) before_block = 0;
  __syncthreads();
  const int64_t first_warp = int64_t{blockIdx.x} * kSelectWarps;
  const int64_t warp = first_warp + threadIdx.x / kSelectLanes;
  int64_t left = ties;
  if (ties > 0) {  // the same for all threads
    unsigned long long before = 0;
    for (int64_t i = threadIdx.x; i < first_warp; i += blockDim.x) before += ties_of_warp[i];
    if (before != 0) atomicAdd(&before_block, before);
    __syncthreads();
    left -= static_cast<int64_t>(before_block);
    for (int64_t i = first_warp; i < warp; ++i) left -= static_cast<int64_t>(ties_of_warp[i]);
  }
  const WarpWords range(scores.size, words_per_warp);
  for (int64_t w = range.begin; w < range.end; ++w) {
    uint64_t live = scores.words[w];
    if (live != 0) {  // the same for all lanes
      const CutWord compared(scores, w, cut);
      const uint64_t going = left > 0 ? lowest_set(live & compared.equal, left) : 0;
      left -= __popcll(going);
      live &= ~(compared.below | going);
    }
    if (threadIdx.x % kSelectLanes == 0) out[w] = live;
  }
}

// Grid of the kernels in which a thread takes every so-manieth score.
inline unsigned score_blocks(int64_t size) {
  constexpr int64_t kPerThread = 16;  // or a block would do little but clear and add its counters
  const int64_t per_block = kSelectThreads * kPerThread;
  return static_cast<unsigned>(std::min((size + per_block - 1) / per_block, kMaxSelectBlocks));
}

// *first = the index of the first NaN or Inf of bits [size], or as it was. REQUIRES: *first is all
// ones; infinity_key.
template <class Key, class Launch>
void launch_first_not_finite(const Launch& launch, const Key* bits, int64_t size, Key infinity,
                             unsigned long long* first) {
  if (size == 0) return;
  launch(&first_not_finite_kernel<Key>, score_blocks(size), kSelectThreads, bits, size, infinity,
         first);
}

// Adds to counts [kDigitValues].
template <class Key, class Launch>
void launch_select_histogram(const Launch& launch, const LiveScores<Key>& scores,
                             const KeyDigit& digit, unsigned long long* counts) {
  if (scores.size == 0) return;
  launch(&count_digits_kernel<Key>, score_blocks(scores.size), kSelectThreads, scores, digit,
         counts);
}

// out [ceil(size / 64)] = the mask without the keys below `cut` and the first `ties` live ones that
// equal it. `ties_of_warp` is scratch of grid.warps() counters, where grid is select_grid(size).
template <class Key, class Launch>
void launch_select_mask(const Launch& launch, const SelectGrid& grid, const LiveScores<Key>& scores,
                        Key cut, int64_t ties, unsigned long long* ties_of_warp, uint64_t* out) {
  if (scores.size == 0) return;
  if (ties > 0) {
    launch(&count_ties_kernel<Key>, grid.blocks, kSelectThreads, scores, grid.words_per_warp, cut,
           ties_of_warp);
  }
  launch(&prune_smallest_kernel<Key>, grid.blocks, kSelectThreads, scores, grid.words_per_warp, cut,
         ties, ties_of_warp, out);
}

}  // namespace pomona
