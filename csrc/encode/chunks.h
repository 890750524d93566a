#pragma once
// A tensor cut into chunks: runs of elements (row-major) that decode on their own, so that threads
// share one tensor and a reader needs little memory. Source: docs/format.md, "Chunks".

#include "pomona/mask.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// A chunk is a multiple of 64 elements, so that its mask is whole words of the tensor's.
inline constexpr int64_t kChunkAlignment = 64;
// Of the elements of a chunk: what a reader has to have room for before it believes a file.
inline constexpr int64_t kMaxChunk = int64_t{1} << 24;
inline constexpr int64_t kMinChunk = int64_t{1} << 16;  // but the last

struct Chunk {
  int64_t begin = 0;        // its first element
  int64_t size = 0;         // elements
  int64_t kept = 0;         // of them
  int64_t kept_before = 0;  // in the chunks before
};

// A tensor as a matrix: rows of dim 0, in columns; `inner` columns in a row are one window of a
// convolution.
struct CodedMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t inner = 1;
};
CodedMatrix coded_matrix(std::span<const int64_t> shape);

// Whether chunks of so many elements are for the context coder: whole rows, and few enough that its
// models (some hundred bytes a column, three an element) stay small.
bool fits_context(const CodedMatrix& shape, int64_t chunk);

// Elements of a chunk: about `wanted` of them, in whole rows where rows are short enough; 0 when
// the tensor is one chunk.
int64_t chunk_size(const CodedMatrix& shape, int64_t wanted);

std::vector<Chunk> cut_into_chunks(const Mask& mask, int64_t chunk);

inline int64_t chunk_count(int64_t numel, int64_t chunk) {
  return chunk == 0 ? 1 : (numel + chunk - 1) / chunk;
}

// The words of a chunk in the tensor's mask.
std::span<const uint64_t> words_of(const Mask& mask, const Chunk& chunk);

// The chunk as a matrix of whole rows. REQUIRES: chunk.size is a multiple of shape.cols.
inline CodedMatrix matrix_of(const CodedMatrix& shape, const Chunk& chunk) {
  return {shape.cols == 0 ? 0 : chunk.size / shape.cols, shape.cols, shape.inner};
}

}  // namespace pomona
