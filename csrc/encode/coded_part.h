#pragma once
// One part of a tensor's section as it is coded: a table for all chunks, and a piece for each.

#include "pomona/file.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

using Bytes = std::vector<std::byte>;

struct CodedPart {
  Bytes table;
  std::vector<Bytes> pieces;  // one a chunk
  uint64_t size() const {
    uint64_t size = table.size();
    for (const Bytes& piece : pieces) size += piece.size();
    return size;
  }
};

// The coders of plain symbols that a goal may choose from, the faster first.
std::span<const Coder> symbol_coders(Goal goal);
// Whether a goal takes the context coder too.
inline bool takes_context(Goal goal) {
  return goal == Goal::kSmallest || goal == Goal::kContext;
}

inline void run_tasks(const ParallelFor& parallel, size_t count,
                      const std::function<void(int64_t)>& task) {
  if (parallel && count > 1) return parallel(static_cast<int64_t>(count), task);
  for (size_t i = 0; i < count; ++i) task(static_cast<int64_t>(i));
}

inline void append(Bytes& bytes, std::span<const std::byte> more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

}  // namespace pomona
