#pragma once
// Many float32 values as far fewer points, for k-means: bins so narrow that keeping each in one
// cluster costs less than a millionth of the optimum. No torch.

#include "quantize/points.h"

#include <optional>

namespace pomona {

// Points for at most k clusters of `values`; nothing where bins do not serve (values in a few
// heaps). Their excess bound is about `meant_excess` of the cost: what it is has to be asked of the
// points. Values that hold few bits (float16 or bfloat16 that was widened) are counted exactly.
// Linear time; memory for a few million bins. REQUIRES: values are finite and not empty.
POMONA_API std::optional<Points> binned_points(std::span<const float> values, int k,
                                               double meant_excess,
                                               const ParallelFor& parallel = {});

}  // namespace pomona
