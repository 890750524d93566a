// The emulator itself: what barriers, shuffles, votes and atomics do, and which wrong kernels it
// finds.

#include "cuda_emulator/emulator.h"

#include "cuda_emulator/every_order.h"

#include <cuda_runtime.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace pomona::emulator {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffu;

// Kernels --------------------------------------------------------------------------------------

__global__ void index_kernel(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += static_cast<int>(thread) + 1;
}

// Each thread takes its right neighbour's value; round and round.
template <bool kHasBarriers>
__global__ void rotate_kernel(int* out, int rounds) {
  __shared__ int values[128];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  for (int round = 0; round < rounds; ++round) {
    if constexpr (kHasBarriers) __syncthreads();
    const int next = values[(threadIdx.x + 1) % blockDim.x];
    if constexpr (kHasBarriers) __syncthreads();
    values[threadIdx.x] = next;
  }
  out[threadIdx.x] = values[threadIdx.x];
}

// Sums of warps, then of the block. The barrier between the two can be left out.
template <bool kHasBarrier>
__global__ void block_sum_kernel(const int* values, int* sum) {
  __shared__ int warp_sums[32];
  int value = values[threadIdx.x];
  for (unsigned delta = 16; delta > 0; delta /= 2) {
    value += __shfl_down_sync(kAllLanes, value, delta);
  }
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  if constexpr (kHasBarrier) __syncthreads();
  if (threadIdx.x != 0) return;
  *sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) *sum += warp_sums[warp];
}

// Relies on lanes in step: reads what a neighbour of its warp wrote, without __syncwarp.
template <bool kHasBarrier>
__global__ void neighbour_kernel(int* out) {
  __shared__ int values[32];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if constexpr (kHasBarrier) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

__global__ void shuffle_kernel(int* out, int width) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int* row = out + threadIdx.x * 4;
  row[0] = __shfl_sync(kAllLanes, lane, 3, width);
  row[1] = __shfl_up_sync(kAllLanes, lane, 3, width);
  row[2] = __shfl_down_sync(kAllLanes, lane, 3, width);
  row[3] = __shfl_xor_sync(kAllLanes, lane, 5, width);
}

__global__ void vote_kernel(unsigned* out) {
  const int is_third = threadIdx.x % 3 == 0;
  unsigned* row = out + threadIdx.x * 4;
  row[0] = __ballot_sync(kAllLanes, is_third);
  row[1] = static_cast<unsigned>(__any_sync(kAllLanes, is_third));
  row[2] = static_cast<unsigned>(__all_sync(kAllLanes, is_third));
  row[3] = static_cast<unsigned>(__all_sync(kAllLanes, 1));
}

// Two calls at once in one warp, one for each half of it.
__global__ void half_warp_kernel(int* out) {
  const unsigned half = threadIdx.x / 16;
  const unsigned mask = 0xffffu << (16 * half);
  int value = static_cast<int>(threadIdx.x);
  for (int delta = 8; delta > 0; delta /= 2) value += __shfl_xor_sync(mask, value, delta);
  out[threadIdx.x] = value;
}

template <typename T>
__global__ void count_kernel(T* counter) {
  atomicAdd(counter, 1);
}

__global__ void early_return_kernel(int* out, unsigned n) {
  __shared__ int last;
  if (threadIdx.x >= n) return;
  if (threadIdx.x == n - 1) last = 7;
  __syncthreads();
  out[threadIdx.x] = last;
}

__global__ void unwritten_kernel(float* out, int* code) {
  __shared__ float sum;
  __shared__ int count;
  *out = sum;
  *code = count;
  sum = 1;
  count = 1;
}

__global__ void half_the_block_at_a_barrier_kernel() {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncwarp(0xffff0000u);
    __shfl_sync(kAllLanes, 1, 0);
  }
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void shuffle_without_all_lanes_kernel() {
  if (threadIdx.x < 8) __shfl_sync(kAllLanes, 1, 0);
  __syncthreads();
}

__global__ void caller_outside_the_mask_kernel() {
  __shfl_sync(0x0fu, 1, 0);
}

__global__ void source_outside_the_mask_kernel() {
  if (threadIdx.x < 8) __shfl_down_sync(0xffu, 1, 4);
}

__global__ void source_has_ended_kernel() {
  if (threadIdx.x >= 16) return;
  __shfl_xor_sync(kAllLanes, 1, 16);
}

__global__ void width_kernel() {
  __shfl_sync(kAllLanes, 1, 0, 12);
}

__global__ void throwing_kernel(int* unwound) {
  struct Unwound {
    int* count;
    ~Unwound() { ++*count; }
  };
  const Unwound guard{unwound};
  if (threadIdx.x == 40) throw std::runtime_error("thread 40");
  __syncthreads();
}

__global__ void launching_kernel() {
  launch({}, 1, 1, &caller_outside_the_mask_kernel);
}

// What must come out ---------------------------------------------------------------------------

std::vector<int> rotated(unsigned threads, int rounds) {
  std::vector<int> values(threads);
  for (unsigned t = 0; t < threads; ++t) {
    values[t] = static_cast<int>((t + static_cast<unsigned>(rounds)) % threads);
  }
  return values;
}

template <typename Kernel, typename... Arguments>
std::string error_of(const Schedule& schedule, unsigned threads, Kernel kernel,
                     Arguments... arguments) {
  try {
    launch(schedule, 1, threads, kernel, arguments...);
  } catch (const KernelError& error) {
    return error.what();
  }
  return "no error";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

class Emulator : public InEveryOrder {};
INSTANTIATE_TEST_SUITE_P(Order, Emulator, every_order(), order_name);

TEST_P(Emulator, RunsEachThreadOfEachBlockOnce) {
  const dim3 grid(2, 3, 2), block(4, 2, 3);
  std::vector<int> out(12 * 24);
  launch(schedule(), grid, block, &index_kernel, out.data());
  for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], static_cast<int>(i % 24) + 1) << i;
}

TEST_P(Emulator, OrdersSharedMemoryByBarriers) {
  for (const unsigned threads : {1u, 31u, 32u, 33u, 128u}) {
    std::vector<int> out(threads);
    launch(schedule(), 1, threads, &rotate_kernel<true>, out.data(), 5);
    EXPECT_EQ(out, rotated(threads, 5)) << threads;
  }
}

TEST_P(Emulator, AddsABlockByShuffles) {
  std::vector<int> values(256);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int>(i * i);
  int sum = 0, expected = 0;
  for (const int value : values) expected += value;
  launch(schedule(), 1, 256, &block_sum_kernel<true>, values.data(), &sum);
  EXPECT_EQ(sum, expected);
}

TEST_P(Emulator, ShufflesAsPtxSays) {
  for (const int width : {32, 16, 8, 4, 1}) {
    std::vector<int> out(64 * 4);
    launch(schedule(), 1, 64, &shuffle_kernel, out.data(), width);
    for (int t = 0; t < 64; ++t) {
      const int lane = t % 32, begin = lane / width * width, end = begin + width;
      const int* row = &out[static_cast<size_t>(t) * 4];
      EXPECT_EQ(row[0], begin + 3 % width);
      EXPECT_EQ(row[1], lane - 3 >= begin ? lane - 3 : lane);
      EXPECT_EQ(row[2], lane + 3 < end ? lane + 3 : lane);
      EXPECT_EQ(row[3], (lane ^ 5) < end ? lane ^ 5 : lane);
    }
  }
}

TEST_P(Emulator, VotesOverTheWarp) {
  std::vector<unsigned> out(32 * 4);
  launch(schedule(), 1, 32, &vote_kernel, out.data());
  for (size_t t = 0; t < 32; ++t) {
    EXPECT_EQ(out[t * 4], 0x49249249u);
    EXPECT_EQ(out[t * 4 + 1], 1u);
    EXPECT_EQ(out[t * 4 + 2], 0u);
    EXPECT_EQ(out[t * 4 + 3], 1u);
  }
}

TEST_P(Emulator, KeepsTheHalvesOfAWarpApart) {
  std::vector<int> out(32);
  launch(schedule(), 1, 32, &half_warp_kernel, out.data());
  for (size_t t = 0; t < 32; ++t) EXPECT_EQ(out[t], t < 16 ? 120 : 376);
}

TEST_P(Emulator, AddsAtomicallyInEveryType) {
  int i = 0;
  unsigned u = 0;
  float f = 0;
  double d = 0;
  launch(schedule(), 3, 50, &count_kernel<int>, &i);
  launch(schedule(), 3, 50, &count_kernel<unsigned>, &u);
  launch(schedule(), 3, 50, &count_kernel<float>, &f);
  launch(schedule(), 3, 50, &count_kernel<double>, &d);
  EXPECT_EQ(i, 150);
  EXPECT_EQ(u, 150u);
  EXPECT_EQ(f, 150.0f);
  EXPECT_EQ(d, 150.0);
}

TEST_P(Emulator, DoesNotWaitForThreadsThatReturnedEarly) {
  for (const unsigned n : {1u, 5u, 32u, 63u}) {
    std::vector<int> out(n);
    launch(schedule(), 1, 64, &early_return_kernel, out.data(), n);
    EXPECT_EQ(out, std::vector<int>(n, 7));
  }
}

TEST_P(Emulator, StartsEachBlockWithSharedMemoryThatHoldsNoNumber) {
  if (shared_memory().first == shared_memory().second) {
    GTEST_SKIP() << "the linker takes no script, so shared arrays are not found";
  }
  float sum = 0;
  int code = 0;
  launch(schedule(), 2, 1, &unwritten_kernel, &sum, &code);
  EXPECT_TRUE(std::isnan(sum));
  EXPECT_EQ(code, -1);
}

TEST(EmulatorOrders, DisagreeWhereABarrierIsMissing) {
  const auto disagree = [](auto run, const auto& expected) {
    return std::any_of(kSchedules.begin(), kSchedules.end(),
                       [&](const Schedule& schedule) { return run(schedule) != expected; });
  };
  EXPECT_TRUE(disagree(
      [](const Schedule& schedule) {
        std::vector<int> out(64);
        launch(schedule, 1, 64, &rotate_kernel<false>, out.data(), 1);
        return out;
      },
      rotated(64, 1)));
  EXPECT_TRUE(disagree(
      [](const Schedule& schedule) {
        const std::vector<int> ones(128, 1);
        int sum = 0;
        launch(schedule, 1, 128, &block_sum_kernel<false>, ones.data(), &sum);
        return sum;
      },
      128));
}

TEST(EmulatorOrders, DisagreeWhereLanesAreTakenToRunInStep) {
  std::vector<int> expected(32);
  for (int t = 0; t < 32; ++t) expected[static_cast<size_t>(t)] = t ^ 1;
  int wrong = 0;
  for (const auto& schedule : kSchedules) {
    std::vector<int> out(32);
    launch(schedule, 1, 32, &neighbour_kernel<true>, out.data());
    EXPECT_EQ(out, expected);
    launch(schedule, 1, 32, &neighbour_kernel<false>, out.data());
    wrong += out != expected;
  }
  EXPECT_GT(wrong, 0);
}

TEST_P(Emulator, ReportsABarrierThatOnlyHalfOfTheBlockReaches) {
  const auto error = error_of(schedule(), 32, &half_the_block_at_a_barrier_kernel);
  expect_contains(error, "block (0, 0, 0): expected its living threads to meet, got ");
  expect_contains(error, "16 waiting in __syncthreads at ");
  expect_contains(error, "emulator_test.cpp:");
  expect_contains(error, "(the first is thread 0)");
  expect_contains(error, "with mask 0xffffffff (the first is thread 16)");
}

TEST_P(Emulator, ReportsThreadsThatMeetAtTwoDifferentBarriers) {
  const auto error = error_of(schedule(), 64, &two_barriers_kernel);
  expect_contains(error, "32 waiting in __syncthreads at ");
  expect_contains(error, "(the first is thread 1)");
}

TEST_P(Emulator, ReportsAShuffleThatLacksLanesOfItsMask) {
  const auto error = error_of(schedule(), 32, &shuffle_without_all_lanes_kernel);
  expect_contains(error, "8 waiting in __shfl_sync at ");
  expect_contains(error, "24 waiting in __syncthreads at ");
}

TEST_P(Emulator, ReportsACallerOutsideItsMask) {
  expect_contains(error_of(schedule(), 32, &caller_outside_the_mask_kernel),
                  "expected `mask` to hold the calling lane ");
}

TEST_P(Emulator, ReportsAShuffleFromALaneOutsideTheMask) {
  expect_contains(error_of(schedule(), 32, &source_outside_the_mask_kernel),
                  "to take part, got mask 0x000000ff");
}

TEST_P(Emulator, ReportsAShuffleFromALaneThatHasEndedOrDoesNotExist) {
  expect_contains(error_of(schedule(), 32, &source_has_ended_kernel), "or a lane that has ended");
  expect_contains(error_of(schedule(), 16, &source_has_ended_kernel), "or a lane that has ended");
}

TEST_P(Emulator, ReportsAShuffleWidthThatIsNoPowerOfTwo) {
  EXPECT_EQ(error_of(schedule(), 32, &width_kernel),
            "shuffle: expected `width` to be a power of two up to 32, got 12.");
}

TEST_P(Emulator, UnwindsTheOtherThreadsWhenOneThrows) {
  int unwound = 0;
  EXPECT_THROW(launch(schedule(), 1, 64, &throwing_kernel, &unwound), std::runtime_error);
  EXPECT_GE(unwound, 1);
  const int afterwards = unwound;
  int counter = 0;
  launch(schedule(), 1, 64, &count_kernel<int>, &counter);
  EXPECT_EQ(counter, 64) << "the fibers serve the next launch";
  EXPECT_EQ(unwound, afterwards);
}

TEST(EmulatorLaunch, RefusesShapesThatAGpuRefuses) {
  int counter = 0;
  const auto try_launch = [&](dim3 grid, dim3 block) {
    launch({}, grid, block, &count_kernel<int>, &counter);
  };
  EXPECT_THROW(try_launch(0, 32), KernelError);
  EXPECT_THROW(try_launch(1, 0), KernelError);
  EXPECT_THROW(try_launch(1, 1025), KernelError);
  EXPECT_THROW(try_launch(1, dim3(32, 33)), KernelError);
  EXPECT_THROW(try_launch(dim3(1, 65536), 1), KernelError);
  EXPECT_EQ(counter, 0);
  try_launch(1, 1024);
  EXPECT_EQ(counter, 1024);
}

TEST(EmulatorLaunch, RefusesALaunchInsideAKernel) {
  EXPECT_EQ(error_of({}, 1, &launching_kernel),
            "launch: expected no running kernel, got a launch inside one.");
}

TEST(EmulatorLaunch, RefusesDeviceCallsOutsideAKernel) {
  EXPECT_THROW(__syncthreads(), KernelError);
}

}  // namespace
}  // namespace pomona::emulator
