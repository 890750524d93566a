#pragma once
// Pieces of a tensor that go or stay together: rows, columns, blocks, and n of m neighbours.
//
// A tensor is seen as [rows, columns, inner]: dimension 0, dimension 1, the product of the others.
// For a convolution these are filters, channels and positions of the kernel.

#include "pomona/export.h"
#include "pomona/mask.h"
#include "pomona/prune_rule.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

struct MatrixShape {
  int64_t rows = 1;
  int64_t columns = 1;
  int64_t inner = 1;

  int64_t size() const { return rows * columns * inner; }
};
POMONA_API MatrixShape matrix_shape(std::span<const int64_t> shape);

// What a granularity makes of a tensor. REQUIRES: kRow, kColumn or kBlock.
POMONA_API int64_t group_count(const MatrixShape& shape, const Granularity& granularity);

// Of each piece the sum of |score| (of the score itself when `by_value`), in row-major order, and
// how many weights it has. REQUIRES: as group_count; scores.size() == shape.size().
struct GroupSums {
  std::vector<double> sums;
  std::vector<int64_t> sizes;
};
template <class Float>
POMONA_API GroupSums sum_groups(std::span<const Float> scores, const MatrixShape& shape,
                                const Granularity& granularity, bool by_value);

// Which pieces have a weight left.
POMONA_API Mask live_groups(const Mask& mask, const MatrixShape& shape,
                            const Granularity& granularity);
// `mask` without the weights of the pieces that have gone.
POMONA_API Mask without_groups(Mask mask, const Mask& groups, const MatrixShape& shape,
                               const Granularity& granularity);

// Of each `columns` neighbours along dimension 1 the `rows` of the largest score stay (|score|
// unless by_value); of equal ones the lower index goes first. What `previous` masks stays masked,
// and so do scores of 0 unless by_value. At the end of a row fewer neighbours may be left.
template <class Float>
POMONA_API Mask select_n_of_m(std::span<const Float> scores, const MatrixShape& shape,
                              const Granularity& granularity, const Mask& previous, bool by_value);

// Of floor(n * sparsity + 0.5) weights the smallest of each bank go, so that all banks keep equally
// many (the first ones one more, where it does not come out even; a bank that has fewer keeps all).
// Ties, `previous` and scores of 0 as in select_n_of_m. Source: ESE, FPGA 2017, §3.2.
template <class Float>
POMONA_API Mask select_balanced(std::span<const Float> scores, const MatrixShape& shape,
                                int64_t banks, double sparsity, const Mask& previous,
                                bool by_value);

}  // namespace pomona
