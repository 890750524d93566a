// AddressSanitizer sees into kernels: overruns after a barrier, on the stack of a fiber that was
// switched away and back, are caught and named by kernel and line.

#include "cuda_emulator/emulator.h"

#include <cuda_runtime.h>

#include <gtest/gtest.h>

#include <vector>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POMONA_ADDRESS_SANITIZER 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define POMONA_ADDRESS_SANITIZER 1
#endif

namespace pomona::emulator {
namespace {

#if defined(POMONA_ADDRESS_SANITIZER)
constexpr bool kSeesOverruns = true;
#else
constexpr bool kSeesOverruns = false;
#endif

class Overrun : public testing::Test {
 protected:
  void SetUp() override {
    if (!kSeesOverruns) GTEST_SKIP() << "needs POMONA_SANITIZE=address";
  }
};

// A store through a pointer whose object the compiler does not see, as in a helper of a kernel.
[[gnu::noinline]] __device__ void store(volatile float* values, unsigned i) {
  values[i] = 1.0f;
}

// Thread t writes element t + shift, so the last one writes `shift` past the end.
template <typename T>
__global__ void shared_overrun_kernel(unsigned shift) {
  __shared__ T values[64];
  values[threadIdx.x] = T(0);
  __syncthreads();
  store(values, threadIdx.x + shift);
  __syncthreads();
}

__global__ void global_overrun_kernel(float* values, unsigned shift) {
  values[threadIdx.x] = 0.0f;
  __syncthreads();
  store(values, threadIdx.x + shift);
  __syncthreads();
}

__global__ void local_overrun_kernel(unsigned shift) {
  float values[8] = {};
  __syncthreads();
  store(values, threadIdx.x % 8 + shift);
  __syncthreads();
}

__global__ void global_read_kernel(const float* values, float* out, unsigned shift) {
  __syncthreads();
  out[threadIdx.x] = *(values + threadIdx.x + shift);
}

TEST_F(Overrun, OneElementPastASharedArrayAfterABarrierIsCaught) {
  launch({}, 1, 64, &shared_overrun_kernel<float>, 0u);
  EXPECT_DEATH(launch({}, 1, 64, &shared_overrun_kernel<float>, 1u),
               "AddressSanitizer: global-buffer-overflow.*WRITE of size 4"
               ".*shared_overrun_kernel.*overrun_test.cpp");
}

TEST_F(Overrun, OneElementPastABufferAfterABarrierIsCaught) {
  std::vector<float> values(64);
  launch({}, 1, 64, &global_overrun_kernel, values.data(), 0u);
  EXPECT_DEATH(launch({}, 1, 64, &global_overrun_kernel, values.data(), 1u),
               "AddressSanitizer: heap-buffer-overflow.*WRITE of size 4"
               ".*global_overrun_kernel.*overrun_test.cpp");
}

TEST_F(Overrun, OneElementPastAThreadsOwnArrayAfterABarrierIsCaught) {
  launch({}, 1, 64, &local_overrun_kernel, 0u);
  EXPECT_DEATH(launch({}, 1, 64, &local_overrun_kernel, 1u),
               "AddressSanitizer: stack-buffer-overflow.*WRITE of size 4"
               ".*local_overrun_kernel.*overrun_test.cpp");
}

TEST_F(Overrun, AReadPastABufferAfterABarrierIsCaughtInEveryOrder) {
  std::vector<float> values(64), out(64);
  for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
    launch({order}, 1, 64, &global_read_kernel, values.data(), out.data(), 0u);
    EXPECT_DEATH(launch({order}, 1, 64, &global_read_kernel, values.data(), out.data(), 1u),
                 "AddressSanitizer: heap-buffer-overflow.*READ of size 4.*global_read_kernel");
  }
}

}  // namespace
}  // namespace pomona::emulator
