#include "encode/chunks.h"

#include "base/count_bits.h"

#include <algorithm>
#include <numeric>

namespace pomona {

CodedMatrix coded_matrix(std::span<const int64_t> shape) {
  if (shape.size() < 2) return {1, shape.empty() ? 1 : shape[0], 1};
  CodedMatrix matrix{shape[0], 1, 1};
  for (size_t d = 1; d < shape.size(); ++d) {
    matrix.cols *= shape[d];
    if (d >= 2) matrix.inner *= shape[d];
  }
  return matrix;
}

bool fits_context(const CodedMatrix& shape, int64_t chunk) {
  constexpr int64_t kMostElements = int64_t{1} << 22, kMostColumns = int64_t{1} << 20;
  return shape.cols > 0 && shape.cols <= kMostColumns && chunk <= kMostElements &&
         chunk % shape.cols == 0;
}

int64_t chunk_size(const CodedMatrix& shape, int64_t wanted) {
  const int64_t numel = shape.rows * shape.cols;
  if (numel <= wanted) return 0;
  // So many rows are a multiple of 64 elements.
  const int64_t rows = kChunkAlignment / std::gcd(kChunkAlignment, shape.cols);
  const int64_t step = rows * shape.cols;
  const int64_t whole_rows = step <= wanted ? wanted / step * step : step;
  const int64_t size = shape.rows > 1 && whole_rows <= kMaxChunk ? whole_rows : wanted;
  return size < numel ? size : 0;
}

std::vector<Chunk> cut_into_chunks(const Mask& mask, int64_t chunk) {
  std::vector<Chunk> chunks;
  const int64_t count = chunk_count(mask.size(), chunk);
  int64_t kept_before = 0;
  for (int64_t c = 0; c < count; ++c) {
    Chunk part{.begin = c * chunk, .kept_before = kept_before};
    part.size = chunk == 0 ? mask.size() : std::min(chunk, mask.size() - part.begin);
    part.kept = count_bits(words_of(mask, part));
    kept_before += part.kept;
    chunks.push_back(part);
  }
  return chunks;
}

std::span<const uint64_t> words_of(const Mask& mask, const Chunk& chunk) {
  return mask.words().subspan(static_cast<size_t>(chunk.begin) / 64,
                              (static_cast<size_t>(chunk.size) + 63) / 64);
}

}  // namespace pomona
