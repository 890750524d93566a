#include "prune/groups_kernel.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pomona {
namespace {

// The length of the matrix's rows, and how many blocks it takes.
struct Grid {
  int64_t row_size;
  int64_t blocks_in_a_row;
};

Grid grid_of(const MatrixShape& shape, const Granularity& granularity) {
  const int64_t row_size = shape.columns * shape.inner;
  return {row_size, (row_size + granularity.columns - 1) / granularity.columns};
}

// Calls visit(weight, piece) for each weight in row-major order.
template <class Visit>
void for_each_weight(const MatrixShape& shape, const Granularity& granularity, Visit visit) {
  const Grid grid = grid_of(shape, granularity);
  size_t i = 0;
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t q = 0; q < grid.row_size; ++q, ++i) {
      int64_t piece = row;
      if (granularity.kind == Granularity::Kind::kColumn) {
        piece = q / shape.inner;
      } else if (granularity.kind == Granularity::Kind::kBlock) {
        piece = row / granularity.rows * grid.blocks_in_a_row + q / granularity.columns;
      }
      visit(i, static_cast<size_t>(piece));
    }
  }
}

template <class Float>
double importance(Float score, bool by_value) {
  return by_value ? static_cast<double>(score) : std::abs(static_cast<double>(score));
}

}  // namespace

MatrixShape matrix_shape(std::span<const int64_t> shape) {
  MatrixShape matrix;
  if (!shape.empty()) matrix.rows = shape[0];
  if (shape.size() > 1) matrix.columns = shape[1];
  for (size_t d = 2; d < shape.size(); ++d) matrix.inner *= shape[d];
  return matrix;
}

int64_t group_count(const MatrixShape& shape, const Granularity& granularity) {
  if (granularity.kind == Granularity::Kind::kRow) return shape.rows;
  if (granularity.kind == Granularity::Kind::kColumn) return shape.columns;
  const int64_t block_rows = (shape.rows + granularity.rows - 1) / granularity.rows;
  return block_rows * grid_of(shape, granularity).blocks_in_a_row;
}

template <class Float>
GroupSums sum_groups(std::span<const Float> scores, const MatrixShape& shape,
                     const Granularity& granularity, bool by_value) {
  const auto count = static_cast<size_t>(group_count(shape, granularity));
  GroupSums groups{std::vector<double>(count), std::vector<int64_t>(count)};
  for_each_weight(shape, granularity, [&](size_t i, size_t piece) {
    groups.sums[piece] += importance(scores[i], by_value);
    ++groups.sizes[piece];
  });
  return groups;
}

Mask live_groups(const Mask& mask, const MatrixShape& shape, const Granularity& granularity) {
  Mask live(group_count(shape, granularity), false);
  for_each_weight(shape, granularity, [&](size_t i, size_t piece) {
    if (mask[static_cast<int64_t>(i)]) live.set(static_cast<int64_t>(piece), true);
  });
  return live;
}

Mask without_groups(Mask mask, const Mask& groups, const MatrixShape& shape,
                    const Granularity& granularity) {
  for_each_weight(shape, granularity, [&](size_t i, size_t piece) {
    if (!groups[static_cast<int64_t>(piece)]) mask.set(static_cast<int64_t>(i), false);
  });
  return mask;
}

template <class Float>
Mask select_n_of_m(std::span<const Float> scores, const MatrixShape& shape,
                   const Granularity& granularity, const Mask& previous, bool by_value) {
  const int64_t n = granularity.rows, m = granularity.columns;
  Mask mask = previous;
  std::vector<int64_t> live;
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t begin = 0; begin < shape.columns; begin += m) {
      for (int64_t k = 0; k < shape.inner; ++k) {
        live.clear();
        for (int64_t c = begin; c < std::min(begin + m, shape.columns); ++c) {
          const int64_t i = (row * shape.columns + c) * shape.inner + k;
          const bool is_zero = !by_value && scores[static_cast<size_t>(i)] == Float{0};
          if (previous[i] && !is_zero) live.push_back(i);
          if (is_zero) mask.set(i, false);
        }
        std::stable_sort(live.begin(), live.end(), [&](int64_t a, int64_t b) {
          return importance(scores[static_cast<size_t>(a)], by_value) <
                 importance(scores[static_cast<size_t>(b)], by_value);
        });
        const auto going = std::max<int64_t>(static_cast<int64_t>(live.size()) - n, 0);
        for (int64_t g = 0; g < going; ++g) mask.set(live[static_cast<size_t>(g)], false);
      }
    }
  }
  return mask;
}

namespace {

// How many each bank keeps, when `kept` stay in all: equally many, but never more than it has; the
// first banks one more, where it does not come out even.
std::vector<int64_t> equal_shares(const std::vector<std::vector<int64_t>>& banks, int64_t kept) {
  const auto filled = [&](int64_t level) {
    int64_t sum = 0;
    for (const auto& bank : banks) sum += std::min(std::ssize(bank), level);
    return sum;
  };
  int64_t level = 0, above = kept + 1;  // the highest level that takes at most `kept`
  while (above - level > 1) {
    const int64_t middle = std::midpoint(level, above);
    (filled(middle) <= kept ? level : above) = middle;
  }
  int64_t left = kept - filled(level);
  std::vector<int64_t> shares;
  for (const auto& bank : banks) {
    const bool has_one_more = left > 0 && std::ssize(bank) > level;
    left -= has_one_more ? 1 : 0;
    shares.push_back(std::min(std::ssize(bank), level + (has_one_more ? 1 : 0)));
  }
  return shares;
}

}  // namespace

template <class Float>
Mask select_balanced(std::span<const Float> scores, const MatrixShape& shape, int64_t banks,
                     double sparsity, const Mask& previous, bool by_value) {
  const int64_t width = shape.columns * shape.inner;
  std::vector<std::vector<int64_t>> live(static_cast<size_t>(banks));
  for (int64_t i = 0; i < shape.size(); ++i) {
    const bool is_zero = !by_value && scores[static_cast<size_t>(i)] == Float{0};
    if (previous[i] && !is_zero) live[static_cast<size_t>(i / width % banks)].push_back(i);
  }
  const auto going =
      static_cast<int64_t>(std::floor(static_cast<double>(shape.size()) * sparsity + 0.5));
  const auto shares = equal_shares(live, shape.size() - going);
  Mask mask(shape.size(), false);
  for (size_t b = 0; b < live.size(); ++b) {
    auto& bank = live[b];
    const auto end = bank.begin() + shares[b];
    // The most important first; of equal ones the lower index goes, so the higher one is before.
    std::nth_element(bank.begin(), end, bank.end(), [&](int64_t x, int64_t y) {
      const auto of_x = importance(scores[static_cast<size_t>(x)], by_value);
      const auto of_y = importance(scores[static_cast<size_t>(y)], by_value);
      return of_x != of_y ? of_x > of_y : x > y;
    });
    std::for_each(bank.begin(), end, [&](int64_t i) { mask.set(i, true); });
  }
  return mask;
}

template POMONA_API GroupSums sum_groups(std::span<const float>, const MatrixShape&,
                                         const Granularity&, bool);
template POMONA_API GroupSums sum_groups(std::span<const double>, const MatrixShape&,
                                         const Granularity&, bool);
template POMONA_API Mask select_n_of_m(std::span<const float>, const MatrixShape&,
                                       const Granularity&, const Mask&, bool);
template POMONA_API Mask select_n_of_m(std::span<const double>, const MatrixShape&,
                                       const Granularity&, const Mask&, bool);
template POMONA_API Mask select_balanced(std::span<const float>, const MatrixShape&, int64_t,
                                         double, const Mask&, bool);
template POMONA_API Mask select_balanced(std::span<const double>, const MatrixShape&, int64_t,
                                         double, const Mask&, bool);

}  // namespace pomona
