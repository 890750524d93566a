#pragma once
// How the torch-free half runs on threads without a thread pool of its own.

#include <cstdint>
#include <functional>

namespace pomona {

// Runs task(0) ... task(count - 1), in any order, on any threads. Empty: one after the other.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t)>& task)>;

}  // namespace pomona
