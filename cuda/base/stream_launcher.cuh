#pragma once
// How the launch_ functions of the kernel files start a kernel on a GPU. They know neither torch
// nor <<<>>>, so that the emulator can run them too, and take what starts a kernel as an argument:
//
//   launch(kernel, grid, block, arguments...)

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

namespace pomona {

// Starts kernels on one stream. Throws when the launch fails.
struct StreamLauncher {
  cudaStream_t stream;

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                  const Arguments&... arguments) const {
    kernel<<<grid, block, 0, stream>>>(arguments...);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

// On the current stream of the current device: REQUIRES a device guard.
inline StreamLauncher on_current_stream() {
  return {c10::cuda::getCurrentCUDAStream().stream()};
}

}  // namespace pomona
