#include "infer/csr16_kernel.h"

#include "base/text.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace pomona {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr int64_t kAlignment = 16;
constexpr int64_t kMaxCentroids = 256;

// Sums that overflow come out negative and stay so: a header may hold any numbers.
int64_t section_end(int64_t begin, int64_t count, int64_t item_bytes) {
  int64_t bytes = 0, end = 0;
  if (begin < 0 || __builtin_mul_overflow(count, item_bytes, &bytes) ||
      __builtin_add_overflow(begin, bytes, &end) ||
      __builtin_add_overflow(end, kAlignment - 1, &end)) {
    return -1;
  }
  return end / kAlignment * kAlignment;
}

// The header of a matrix; size is negative when it has no room in 64 bits.
Csr16Header make_header(int64_t rows, int64_t cols, int64_t nnz, int64_t centroids) {
  Csr16Header header;
  header.rows = rows;
  header.cols = cols;
  header.nnz = nnz;
  header.centroids = centroids;
  int64_t starts = 0;
  if (__builtin_mul_overflow(rows, csr16_panels(cols), &starts) ||
      __builtin_add_overflow(starts, 1, &starts)) {
    header.size = -1;
    return header;
  }
  header.row_starts_at = section_end(0, 1, sizeof(Csr16Header));
  header.columns_at = section_end(header.row_starts_at, starts, sizeof(int64_t));
  header.weights_at = section_end(header.columns_at, nnz, sizeof(uint16_t));
  header.codebook_at =
      section_end(header.weights_at, nnz, centroids > 0 ? sizeof(uint8_t) : sizeof(float));
  header.size = section_end(header.codebook_at, centroids, sizeof(float));
  return header;
}

template <class T>
T* section(std::vector<std::byte>& bytes, int64_t at) {
  return reinterpret_cast<T*>(bytes.data() + at);
}

void check_starts(const Csr16View& matrix) {
  const int64_t segments = matrix.rows * matrix.panels;
  const auto* starts = matrix.row_starts;
  if (starts[0] != 0) refuse_packed("with row_starts from 0", starts[0]);
  for (int64_t s = 0; s < segments; ++s) {
    if (starts[s + 1] < starts[s]) {
      refuse_packed(text("with row_starts[", s + 1, "] of at least ", starts[s]), starts[s + 1]);
    }
  }
  if (starts[segments] != matrix.nnz) {
    refuse_packed(text("with row_starts up to nnz ", matrix.nnz), starts[segments]);
  }
}

void check_columns(const Csr16View& matrix) {
  for (int64_t s = 0; s < matrix.rows * matrix.panels; ++s) {
    const int64_t width =
        std::min(kCsr16PanelCols, matrix.cols - s % matrix.panels * kCsr16PanelCols);
    int64_t previous = -1;
    for (int64_t e = matrix.row_starts[s]; e < matrix.row_starts[s + 1]; ++e) {
      const int64_t column = matrix.columns[e];
      if (column <= previous || column >= width) {
        refuse_packed(text("with columns[", e, "] above ", previous, " and below ", width), column);
      }
      previous = column;
    }
  }
}

void check_codes(const Csr16View& matrix) {
  for (int64_t e = 0; e < matrix.nnz; ++e) {
    if (matrix.codes[e] >= matrix.centroids) {
      refuse_packed(text("with codes[", e, "] below ", matrix.centroids), int{matrix.codes[e]});
    }
  }
}

}  // namespace

std::vector<std::byte> pack_csr16(const Weight& weight) {
  const int64_t rows = weight.shape[0], cols = weight.shape[1], panels = csr16_panels(cols);
  const auto header =
      make_header(rows, cols, weight.mask.kept(), static_cast<int64_t>(weight.codebook.size()));
  std::vector<std::byte> bytes(static_cast<size_t>(header.size));
  std::memcpy(bytes.data(), &header, sizeof header);

  auto* starts = section<int64_t>(bytes, header.row_starts_at);
  auto* columns = section<uint16_t>(bytes, header.columns_at);
  for_each_kept(weight.mask, [&](size_t i) {
    const int64_t row = static_cast<int64_t>(i) / cols, column = static_cast<int64_t>(i) % cols;
    *columns++ = static_cast<uint16_t>(column % kCsr16PanelCols);
    ++starts[row * panels + column / kCsr16PanelCols + 1];
  });
  for (int64_t s = 0; s < rows * panels; ++s) starts[s + 1] += starts[s];

  if (weight.is_shared()) {
    std::ranges::copy(weight.codes, section<uint8_t>(bytes, header.weights_at));
    std::ranges::copy(weight.codebook, section<float>(bytes, header.codebook_at));
  } else {
    std::ranges::copy(weight.values, bytes.begin() + header.weights_at);
  }
  return bytes;
}

Csr16Header read_csr16_header(std::span<const std::byte> bytes) {
  check_packed_start(bytes, sizeof(Csr16Header), Layout::kCsr16, kCsr16Version);
  Csr16Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.size != static_cast<int64_t>(bytes.size())) {
    refuse_packed(text("of ", header.size, " bytes, as its header says"), bytes.size());
  }
  return header;
}

Csr16View view_csr16(std::span<const std::byte> bytes) {
  const auto& header = *reinterpret_cast<const Csr16Header*>(bytes.data());
  Csr16View view{.rows = header.rows,
                 .cols = header.cols,
                 .nnz = header.nnz,
                 .panels = csr16_panels(header.cols),
                 .centroids = header.centroids};
  const auto* base = bytes.data();
  view.row_starts = reinterpret_cast<const int64_t*>(base + header.row_starts_at);
  view.columns = reinterpret_cast<const uint16_t*>(base + header.columns_at);
  if (header.centroids > 0) {
    view.codes = reinterpret_cast<const uint8_t*>(base + header.weights_at);
    view.codebook = reinterpret_cast<const float*>(base + header.codebook_at);
  } else {
    view.values = reinterpret_cast<const float*>(base + header.weights_at);
  }
  return view;
}

Csr16View check_csr16(std::span<const std::byte> bytes) {
  const auto header = read_csr16_header(bytes);
  if (header.rows < 0) refuse_packed("with rows of at least 0", header.rows);
  if (header.cols < 0) refuse_packed("with cols of at least 0", header.cols);
  if (header.nnz < 0) refuse_packed("with nnz of at least 0", header.nnz);
  if (header.centroids < 0 || header.centroids > kMaxCentroids) {
    refuse_packed("with centroids in 0..256", header.centroids);
  }
  const auto right = make_header(header.rows, header.cols, header.nnz, header.centroids);
  if (right.size != header.size) {
    refuse_packed(text("of ", right.size, " bytes for its rows, cols and nnz"), header.size);
  }
  if (std::memcmp(&right, &header, sizeof right) != 0) {
    refuse_packed("with the section offsets that its rows, cols and nnz give", "others");
  }
  const auto view = view_csr16(bytes);
  check_starts(view);
  check_columns(view);
  if (view.codes != nullptr) check_codes(view);
  return view;
}

void unpack_csr16_row(const Csr16View& matrix, int64_t row, float* dense) {
  for (int64_t p = 0; p < matrix.panels; ++p) {
    const int64_t* segment = matrix.row_starts + row * matrix.panels + p;
    for (int64_t e = segment[0]; e < segment[1]; ++e) {
      dense[p * kCsr16PanelCols + matrix.columns[e]] =
          matrix.codes != nullptr ? matrix.codebook[matrix.codes[e]] : matrix.values[e];
    }
  }
}

void unpack_csr16(const Csr16View& matrix, float* dense) {
  for (int64_t row = 0; row < matrix.rows; ++row) {
    unpack_csr16_row(matrix, row, dense + row * matrix.cols);
  }
}

namespace {

// Four floats in a register, on any machine that GCC or clang knows.
using Float4 = float __attribute__((vector_size(16)));

// How many rows of x the inner loop carries: one, or eight that stand side by side.
struct OneRow {
  using Vector = float;
  static constexpr int kVectors = 1, kLanes = 1;
};
struct EightRows {
  using Vector = Float4;
  static constexpr int kVectors = 2, kLanes = 8;
};
// From here on eight lanes, some of them idle, beat row after row.
constexpr int64_t kFewestRowsForLanes = 3;
constexpr int kAccumulators = 4;

struct SharedWeights {
  const uint8_t* codes;
  const float* codebook;
  float operator[](int64_t e) const { return codebook[codes[e]]; }
};
struct PlainWeights {
  const float* values;
  float operator[](int64_t e) const { return values[e]; }
};

// Adds the entries [e, end) to total[kLanes]. x[column * kLanes + lane].
template <class Rows, class Weights>
void add_segment(const Weights& weights, const uint16_t* columns, int64_t e, int64_t end,
                 const float* x, float* total) {
  using Vector = typename Rows::Vector;
  Vector sums[kAccumulators][Rows::kVectors] = {};
  const auto add = [&](Vector* sum, int64_t entry) {
    const float weight = weights[entry];
    const float* from = x + static_cast<size_t>(columns[entry]) * Rows::kLanes;
    for (int v = 0; v < Rows::kVectors; ++v) {
      Vector inputs;
      std::memcpy(&inputs, from + v * Rows::kLanes / Rows::kVectors, sizeof inputs);
      sum[v] += weight * inputs;
    }
  };
  for (; e + kAccumulators <= end; e += kAccumulators) {
    for (int a = 0; a < kAccumulators; ++a) add(sums[a], e + a);
  }
  for (int a = 0; e + a < end; ++a) add(sums[a], e + a);
  for (int v = 0; v < Rows::kVectors; ++v) {
    const Vector sum = (sums[0][v] + sums[1][v]) + (sums[2][v] + sums[3][v]);
    float* to = total + v * Rows::kLanes / Rows::kVectors;
    Vector so_far;
    std::memcpy(&so_far, to, sizeof so_far);
    so_far += sum;
    std::memcpy(to, &so_far, sizeof so_far);
  }
}

// One tile: `count` rows of y (at most kLanes) from x[column * kLanes + lane].
template <class Rows, class Weights>
void multiply_tile(const Csr16View& matrix, const Weights& weights, const float* x,
                   const float* bias, float* y, int64_t count, RowRange range) {
  for (int64_t row = range.first; row < range.last; ++row) {
    float total[Rows::kLanes] = {};
    for (int64_t p = 0; p < matrix.panels; ++p) {
      const int64_t* segment = matrix.row_starts + row * matrix.panels + p;
      add_segment<Rows>(weights, matrix.columns, segment[0], segment[1],
                        x + p * kCsr16PanelCols * Rows::kLanes, total);
    }
    for (int64_t lane = 0; lane < count; ++lane) {
      y[lane * matrix.rows + row] = bias != nullptr ? total[lane] + bias[row] : total[lane];
    }
  }
}

// tile[column * kLanes + lane] = x[lane * cols + column]; lanes past `count` are 0.
void transpose_rows(const float* x, int64_t count, int64_t cols, std::vector<float>& tile) {
  tile.assign(static_cast<size_t>(cols * EightRows::kLanes), 0.0f);
  for (int64_t lane = 0; lane < count; ++lane) {
    for (int64_t column = 0; column < cols; ++column) {
      tile[static_cast<size_t>(column * EightRows::kLanes + lane)] = x[lane * cols + column];
    }
  }
}

template <class Weights>
void multiply_all(const Csr16View& matrix, const Weights& weights, const float* x, int64_t batch,
                  const float* bias, float* y, RowRange range) {
  std::vector<float> tile;
  for (int64_t b = 0; b < batch;) {
    const int64_t left = batch - b;
    const int64_t count = left < kFewestRowsForLanes ? 1 : std::min<int64_t>(left, 8);
    const float* rows = x + b * matrix.cols;
    float* out = y + b * matrix.rows;
    if (count == 1) {
      multiply_tile<OneRow>(matrix, weights, rows, bias, out, count, range);
    } else {
      transpose_rows(rows, count, matrix.cols, tile);
      multiply_tile<EightRows>(matrix, weights, tile.data(), bias, out, count, range);
    }
    b += count;
  }
}

}  // namespace

void multiply_csr16(const Csr16View& matrix, const float* x, int64_t batch, const float* bias,
                    float* y, RowRange range) {
  if (matrix.codes != nullptr) {
    multiply_all(matrix, SharedWeights{matrix.codes, matrix.codebook}, x, batch, bias, y, range);
  } else {
    multiply_all(matrix, PlainWeights{matrix.values}, x, batch, bias, y, range);
  }
}

RowRange csr16_part(const Csr16View& matrix, int64_t part, int64_t parts) {
  // The first row whose entries begin at or after this share of the work; a row weighs its entries
  // plus one, so that empty rows are shared out too.
  const auto boundary = [&](int64_t p) {
    if (p >= parts) return matrix.rows;
    const double target = static_cast<double>(matrix.nnz + matrix.rows) * static_cast<double>(p) /
                          static_cast<double>(parts);
    int64_t low = 0, high = matrix.rows;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      const int64_t before = matrix.row_starts[middle * matrix.panels] + middle;
      if (static_cast<double>(before) < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  return {boundary(part), boundary(part + 1)};
}

}  // namespace pomona
