#pragma once
// Stands in for the CUDA toolkit's header, so that a kernel file compiles unchanged with a C++
// compiler and runs in the emulator. It holds what our kernels use; add to it when one uses more.

#include "cuda_emulator/emulator.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// Internal linkage makes a template's __shared__ arrays plain static variables, which
// AddressSanitizer surrounds with redzones (it leaves out variables that several objects share).
#define __global__ [[maybe_unused]] static
#define __shared__ static
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

inline constexpr int warpSize = static_cast<int>(pomona::emulator::kWarpSize);

namespace pomona::emulator {

template <typename T>
uint64_t to_bits(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

// The value that `lane` brings to a shuffle of which all lanes in `mask` are a part.
template <typename T>
T read_lane(const char* function, std::source_location where, unsigned mask, T value,
            unsigned lane) {
  const uint64_t bits = current_block()
                            .wait_for_warp({.site = {function, where},
                                            .mask = mask,
                                            .value = to_bits(value),
                                            .source_lane = lane})
                            .value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t vote(const char* function, std::source_location where, unsigned mask,
                     bool predicate) {
  Block& block = current_block();
  return block
      .wait_for_warp({.site = {function, where},
                      .mask = mask,
                      .value = predicate,
                      .source_lane = block.lane()})
      .non_zero;
}

// The first lane of the calling lane's segment of `width` lanes.
inline unsigned segment_begin(int width) {
  if (width < 1 || width > warpSize || !std::has_single_bit(static_cast<unsigned>(width))) {
    throw KernelError("shuffle: expected `width` to be a power of two up to 32, got " +
                      std::to_string(width) + ".");
  }
  return current_block().lane() & ~(static_cast<unsigned>(width) - 1);
}

}  // namespace pomona::emulator

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  pomona::emulator::current_block().wait_for_block({"__syncthreads", where});
}

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       std::source_location where = std::source_location::current()) {
  pomona::emulator::vote("__syncwarp", where, mask, false);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize,
              std::source_location where = std::source_location::current()) {
  const unsigned begin = pomona::emulator::segment_begin(width);
  const unsigned source =
      begin + (static_cast<unsigned>(lane) & (static_cast<unsigned>(width) - 1));
  return pomona::emulator::read_lane("__shfl_sync", where, mask, value, source);
}

// A lane whose source would lie outside its segment gets its own value back.
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 std::source_location where = std::source_location::current()) {
  const unsigned lane = pomona::emulator::current_block().lane();
  const bool is_inside = lane - pomona::emulator::segment_begin(width) >= delta;
  return pomona::emulator::read_lane("__shfl_up_sync", where, mask, value,
                                     is_inside ? lane - delta : lane);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   std::source_location where = std::source_location::current()) {
  const unsigned lane = pomona::emulator::current_block().lane();
  const unsigned end = pomona::emulator::segment_begin(width) + static_cast<unsigned>(width);
  return pomona::emulator::read_lane("__shfl_down_sync", where, mask, value,
                                     delta < end - lane ? lane + delta : lane);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                  std::source_location where = std::source_location::current()) {
  const unsigned lane = pomona::emulator::current_block().lane();
  const unsigned end = pomona::emulator::segment_begin(width) + static_cast<unsigned>(width);
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return pomona::emulator::read_lane("__shfl_xor_sync", where, mask, value,
                                     source < end ? source : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  return pomona::emulator::vote("__ballot_sync", where, mask, predicate != 0);
}

inline int __any_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  return pomona::emulator::vote("__any_sync", where, mask, predicate != 0) != 0;
}

inline int __all_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  return pomona::emulator::vote("__all_sync", where, mask, predicate == 0) == 0;
}

// Threads change places only where they wait, so a plain addition is atomic here.
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, float> ||
                std::is_same_v<T, double> || std::is_same_v<T, unsigned long long>);
  const T old = *address;
  *address = old + value;
  return old;
}

inline unsigned long long atomicMin(unsigned long long* address, unsigned long long value) {
  const unsigned long long old = *address;
  *address = value < old ? value : old;
  return old;
}

inline int __popcll(unsigned long long value) {
  return std::popcount(value);
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
