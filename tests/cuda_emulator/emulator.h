#pragma once
// Runs CUDA kernels on the CPU, one operating-system thread, so that sanitizers see them.
//
//   launch({Order::kReverse}, grid, block, &some_kernel<float>, arguments...);
//
// What is emulated: blocks and threads, static __shared__ arrays, __syncthreads, the warp's
// shuffles, votes and __syncwarp, atomics. Every thread is a fiber that runs until it must wait.
// Kernels are compiled unchanged: shim/cuda_runtime.h stands in for the toolkit's header.
//
// What is found: reads and writes outside shared arrays, buffers and locals (AddressSanitizer),
// missing barriers (another schedule gives another result), use of shared memory before it is
// written (it holds all ones, a NaN or -1, when a block starts), barriers that not every living
// thread reaches, shuffles from lanes that take no part, launches that a GPU refuses. What is not:
// memory ordering, races within one statement, dynamic shared memory, anything about speed.

#include "cuda_emulator/block.h"

#include <tuple>
#include <utility>

// The built-in variables of the thread that runs now.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace pomona::emulator {

// What CUDA lets every kernel have.
inline constexpr size_t kMaxParameterBytes = 4096;

// The block that runs now. Throws KernelError outside a kernel.
Block& current_block();

// Calls `thread` for each thread of each block. The blocks run one after another, in the
// schedule's order too.
void run_grid(const Schedule& schedule, dim3 grid, dim3 block, const std::function<void()>& thread);

// kernel<<<grid, block>>>(arguments...) and the wait for its end. Throws KernelError, or what the
// kernel throws.
template <typename... Parameters, typename... Arguments>
void launch(const Schedule& schedule, dim3 grid, dim3 block, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= kMaxParameterBytes);
  const std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
  run_grid(schedule, grid, block, [&] { std::apply(kernel, parameters); });
}

// Where the linker put the program's __shared__ arrays (shared_memory.ld); empty when it could not.
std::pair<std::byte*, std::byte*> shared_memory();

}  // namespace pomona::emulator
