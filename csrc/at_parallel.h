#pragma once
// The torch-free half on torch's threads.

#include "pomona/parallel.h"

#include <ATen/Parallel.h>

#ifndef _OPENMP
#error "at::parallel_for is a plain loop without -fopenmp: compile this target with -fopenmp"
#endif

namespace pomona {

inline ParallelFor at_parallel() {
  return [](int64_t count, const std::function<void(int64_t)>& task) {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) task(i);
    });
  };
}

}  // namespace pomona
