#pragma once
// A dense product that does nothing but stream: y = W x in float32, four rows of W at a time
// (AVX-512 or AVX2), fetched ahead. What a dense float32 layer can do here.

#include <cstdint>

namespace pomona::rivals {

enum class StreamIsa : int { kNone = 0, kAvx2 = 1, kAvx512 = 2 };
// The best that this machine has.
StreamIsa stream_isa();
// y[first, last) of weight [rows, cols], row-major. REQUIRES: this machine has `isa`.
void stream_sgemv(const float* weight, const float* x, float* y, int64_t cols, int64_t first,
                  int64_t last, StreamIsa isa);

}  // namespace pomona::rivals
