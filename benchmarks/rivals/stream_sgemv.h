#pragma once
// A dense product that does nothing but stream: y = W x in float32, each row of W once with four
// sums (AVX-512 or AVX2), fetched ahead. The bound of what a dense float32 layer can do here.

#include <cstdint>

namespace pomona::rivals {

enum class StreamIsa : int { kNone = 0, kAvx2 = 1, kAvx512 = 2 };
// The best that this machine has.
StreamIsa stream_isa();
// y[first, last) of weight [rows, cols], row-major. REQUIRES: this machine has `isa`.
void stream_sgemv(const float* weight, const float* x, float* y, int64_t cols, int64_t first,
                  int64_t last, StreamIsa isa);

}  // namespace pomona::rivals
