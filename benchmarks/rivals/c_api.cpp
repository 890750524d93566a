// What benchmarks/_native.py calls.
#include "frozen_pg32.h"
#include "stream_sgemv.h"
#include "team.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>

namespace {

using namespace pomona::rivals;

// rows(first, last) for all rows, half of them on a second thread where there are two; halves are
// cut at a multiple of `step` rows.
void over_rows(int64_t rows, int64_t step, int threads,
               const std::function<void(int64_t, int64_t)>& of_rows) {
  if (threads < 2) {
    of_rows(0, rows);
    return;
  }
  static Team team;
  const int64_t middle = std::min(rows, (rows / 2 + step - 1) / step * step);
  team.run([&] { of_rows(0, middle); }, [&] { of_rows(middle, rows); });
}

}  // namespace

extern "C" {

// 0: neither, 1: AVX2, 2: AVX-512.
int rivals_stream_isa() {
  return static_cast<int>(stream_isa());
}

void rivals_stream(const float* weight, const float* x, float* y, int64_t rows, int64_t cols,
                   int threads) {
  static const StreamIsa isa = stream_isa();
  over_rows(rows, 1, threads, [&](int64_t first, int64_t last) {
    stream_sgemv(weight, x, y, cols, first, last, isa);
  });
}

int rivals_has_frozen() {
  return has_frozen_pg32() ? 1 : 0;
}

void* rivals_pack_frozen(const int64_t* starts, const int32_t* columns, const uint8_t* codes,
                         const float* codebook, int rows, int cols) {
  const auto nnz = static_cast<size_t>(starts[rows]);
  const CompressedRows matrix{
      rows, cols, {starts, static_cast<size_t>(rows) + 1}, {columns, nnz}, {codes, nnz}};
  return std::make_unique<FrozenPg32>(pack_frozen_pg32(matrix, codebook)).release();
}

int64_t rivals_frozen_bytes(const void* packed) {
  return static_cast<int64_t>(static_cast<const FrozenPg32*>(packed)->bytes);
}

void rivals_multiply_frozen(const void* packed, const float* x, float* y, int threads) {
  const auto& matrix = *static_cast<const FrozenPg32*>(packed);
  over_rows(matrix.rows, 32, threads, [&](int64_t first, int64_t last) {
    multiply_frozen_pg32(matrix, x, y, static_cast<int>(first), static_cast<int>(last));
  });
}

void rivals_free_frozen(void* packed) {
  std::unique_ptr<FrozenPg32>(static_cast<FrozenPg32*>(packed)).reset();
}

}  // extern "C"
