#pragma once
// pool_gradients_ and snap_weights_ on the GPU: the sums of codebook_kernel.cuh with other terms,
// then a look-up into the tensor itself. A cluster of count 0 is frozen at 0.
//
//   pool    gradient -> sums -> entries (mean or sum) -> gradient
//   snap    weight - first member -> sums -> entries (first + mean distance) -> weight
//
// Members that are equal have distance 0 and keep their bits.

#include "quantize/codebook_kernel.cuh"

namespace pomona {

// The 16-bit types are made from float.
template <class Float>
__device__ __forceinline__ Float narrowed(double value) {
  if constexpr (sizeof(Float) == sizeof(double)) {
    return value;
  } else {
    return static_cast<Float>(static_cast<float>(value));
  }
}

// Writes the entry of a pooled gradient.
template <class Float>
struct PoolEntry {
  const double* counts;  // device, [groups, k]
  bool mean;
  Float* entries;  // device
  __device__ __forceinline__ void operator()(int64_t cluster, double sum) const {
    const double count = counts[cluster];
    entries[cluster] = narrowed<Float>(count == 0 ? 0.0 : mean ? sum / count : sum);
  }
};

// What snap_weights_ adds up: distances from the cluster's first member.
template <class Float>
struct DistanceTerm {
  const Float* weights;  // device
  const int64_t* first;  // device, [groups, k]; -1: none
  template <class Sum>
  __device__ __forceinline__ Sum term(int64_t i, int64_t cluster) const {
    const int64_t member = first[cluster];
    if (member < 0) return Sum(0);
    return static_cast<Sum>(weights[i]) - static_cast<Sum>(weights[member]);
  }
};

// Writes the entry of a snapped weight.
template <class Float>
struct SnapEntry {
  const Float* weights;
  const int64_t* first;
  const double* counts;
  Float* entries;  // device
  __device__ __forceinline__ void operator()(int64_t cluster, double sum) const {
    const int64_t member = first[cluster];
    if (member < 0 || counts[cluster] == 0) {
      entries[cluster] = static_cast<Float>(0.0f);
    } else if (sum == 0) {
      entries[cluster] = weights[member];
    } else {
      entries[cluster] =
          narrowed<Float>(static_cast<double>(weights[member]) + sum / counts[cluster]);
    }
  }
};

// `entries` and `partials` are scratch on the device: [groups, k] and partial_count().
template <class Word, class Float, class Sum, class Launch>
void launch_pool(const Launch& launch, const DeviceLayout& layout, SumGrid grid,
                 const double* counts, bool mean, Sum* partials, Float* entries, Float* gradient) {
  launch_sums(launch, layout, grid, GradTerm<Float>{gradient}, partials,
              PoolEntry<Float>{counts, mean, entries});
  launch_lookup(launch, reinterpret_cast<const Word*>(entries), layout,
                reinterpret_cast<Word*>(gradient));
}

template <class Word, class Float, class Launch>
void launch_snap(const Launch& launch, const DeviceLayout& layout, SumGrid grid,
                 const double* counts, const int64_t* first, double* partials, Float* entries,
                 Float* weights) {
  launch_sums(launch, layout, grid, DistanceTerm<Float>{weights, first}, partials,
              SnapEntry<Float>{weights, first, counts, entries});
  launch_lookup(launch, reinterpret_cast<const Word*>(entries), layout,
                reinterpret_cast<Word*>(weights));
}

}  // namespace pomona
