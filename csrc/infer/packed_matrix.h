#pragma once
// A buffer of any packed layout as a matrix that can be multiplied: what the operator, the modules
// and the public functions of packed.h share.

#include "pomona/packed.h"
#include "pomona/parallel.h"

#include "infer/csc16_kernel.h"
#include "infer/csr16_kernel.h"
#include "infer/lut_kernel.h"
#include "infer/pg_layout.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

namespace pomona {

class POMONA_API PackedMatrix {
 public:
  // Looks at every index. Throws InvalidArgument for bytes that pack() did not make.
  static PackedMatrix check(std::span<const std::byte> bytes);
  // Looks at the header only. REQUIRES: check(bytes) passed; throws InvalidArgument when the header
  // says that it cannot have.
  static PackedMatrix view(std::span<const std::byte> bytes);

  Layout layout() const;
  Precision precision() const;
  int64_t rows() const;
  int64_t cols() const;
  int64_t nnz() const;

  // y [batch, rows] = x [batch, cols] * W^T + bias, then 0 where that is negative if has_relu; NaN
  // and Inf in x as a dense product has them. The bits of an element depend on its row of W and x
  // and on whether the batch has fewer than three rows, not on the threads.
  void multiply(std::span<const float> x, int64_t batch, const MultiplyOptions& options,
                float* y) const;
  // Writes the stored weights. REQUIRES: dense [rows, cols] holds zeros.
  void unpack(float* dense) const;
  // Whether one row can be unpacked by itself: in csr16 and lut. pg32 and pgv sort rows into tiles.
  bool finds_rows() const;
  // Writes the stored weights of a row. REQUIRES: finds_rows(), 0 <= row < rows(); dense [cols]
  // holds zeros.
  void unpack_row(int64_t row, float* dense) const;

 private:
  using Any = std::variant<Csr16View, PgView, LutView, Csc16View>;
  explicit PackedMatrix(Any matrix) : matrix_(std::move(matrix)) {}
  Any matrix_;
};

}  // namespace pomona
