#include "infer/packed_matrix.h"

#include "base/isa.h"
#include "infer/packed_header.h"
#include "infer/pg_kernel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

namespace pomona {
namespace {

// Multiply-adds that are worth waking a thread for, about 20 microseconds of them.
constexpr int64_t kWorkPerThread = 40'000;
constexpr int64_t kVectorWorkPerThread = 200'000;  // of tiles, with AVX-512
constexpr int64_t kLutWorkPerThread = 200'000;     // weights of a look-up
// Rows of x that csr16 carries together.
constexpr int64_t kTile = 8;

template <class... Calls>
struct Overloaded : Calls... {
  using Calls::operator()...;
};
template <class... Calls>
Overloaded(Calls...) -> Overloaded<Calls...>;

// csr16 for a layout that there is not, and for what is no buffer: its check then refuses it.
Layout layout_in(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(LutHeader)) return Layout::kCsr16;
  const Layout named = named_layout(bytes);
  return named > Layout::kCsr16 && named <= Layout::kCsc16 ? named : Layout::kCsr16;
}

// Memory for the views of x: a call of a small layer takes ten microseconds, a fresh allocation of
// this size as long again. One for each thread that calls, as large as its largest call.
class Scratch {
 public:
  static std::span<std::byte> get(int64_t bytes) {
    thread_local Scratch scratch;
    const auto size = static_cast<size_t>(bytes);
    if (scratch.size_ < size) {
      scratch.memory_.reset(new (kAlignment) std::byte[size]);
      scratch.size_ = size;
    }
    return {scratch.memory_.get(), size};
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(std::byte* memory) const { operator delete[](memory, kAlignment); }
  };
  std::unique_ptr<std::byte[], Delete> memory_;
  size_t size_ = 0;
};

void run(const MultiplyOptions& options, int64_t tasks, const std::function<void(int64_t)>& task) {
  if (tasks > 1 && options.parallel_for) return options.parallel_for(tasks, task);
  for (int64_t i = 0; i < tasks; ++i) task(i);
}

// csr16 skips pruned weights, so NaN and Inf in x have to be brought to their rows.
void spread_not_finite(const Csr16View& matrix, const float* x, float* y) {
  const auto is_bad = [&](int64_t column) { return !std::isfinite(x[column]); };
  int64_t bad = 0;
  for (int64_t c = 0; c < matrix.cols; ++c) bad += is_bad(c);
  if (bad == 0) return;
  for (int64_t row = 0; row < matrix.rows; ++row) {
    int64_t met = 0;
    for (int64_t p = 0; p < matrix.panels; ++p) {
      const int64_t* segment = matrix.row_starts + row * matrix.panels + p;
      for (int64_t e = segment[0]; e < segment[1]; ++e) {
        met += is_bad(p * kCsr16PanelCols + matrix.columns[e]);
      }
    }
    if (met != bad) y[row] = std::numeric_limits<float>::quiet_NaN();
  }
}

void clip(bool has_relu, std::span<float> y) {
  if (!has_relu) return;
  for (float& value : y) value = value < 0 ? 0 : value;
}

// Rows of x are shared out when there are enough of them to fill tiles, else rows of the matrix.
void multiply_matrix(const Csr16View& matrix, std::span<const float> x, int64_t batch,
                     const MultiplyOptions& options, float* y) {
  const int64_t work = (matrix.nnz + matrix.rows) * batch;
  const int64_t parts = std::clamp<int64_t>(work / kWorkPerThread, 1, options.threads);
  const int64_t tiles = (batch + kTile - 1) / kTile;
  if (tiles >= parts) {
    run(options, parts, [&](int64_t part) {
      const int64_t first = tiles * part / parts * kTile;
      const int64_t last = std::min(tiles * (part + 1) / parts * kTile, batch);
      multiply_csr16(matrix, x.data() + first * matrix.cols, last - first, options.bias,
                     y + first * matrix.rows, {0, matrix.rows});
    });
  } else {
    run(options, parts, [&](int64_t part) {
      multiply_csr16(matrix, x.data(), batch, options.bias, y, csr16_part(matrix, part, parts));
    });
  }
  for (int64_t b = 0; b < batch; ++b) {
    spread_not_finite(matrix, x.data() + b * matrix.cols, y + b * matrix.rows);
  }
  clip(options.has_relu, {y, static_cast<size_t>(batch * matrix.rows)});
}

void multiply_matrix(const PgView& matrix, std::span<const float> x, int64_t batch,
                     const MultiplyOptions& options, float* y) {
  const auto& header = matrix.header;
  const auto planes = Scratch::get(pg_input_bytes(matrix));
  const bool is_vector = has_isa(Isa::kAvx512);
  const int64_t blocks = std::ssize(matrix.blocks) - 1;
  const int64_t worth = header.nnz / (is_vector ? kVectorWorkPerThread : kWorkPerThread);
  const int64_t parts =
      std::clamp<int64_t>(worth, 1, std::max<int64_t>(1, std::min(options.threads, blocks)));
  for (int64_t b = 0; b < batch; ++b) {
    const auto row =
        x.subspan(static_cast<size_t>(b * header.cols), static_cast<size_t>(header.cols));
    float* out = y + b * header.rows;
    const auto input = make_pg_input(matrix, row, planes);
    if (!input.is_usable) {
      multiply_pg_slowly(matrix, row, options.bias, options.has_relu, out);
      continue;
    }
    run(options, parts, [&](int64_t part) {
      multiply_pg(matrix, input, options.bias, options.has_relu, out, blocks * part / parts,
                  blocks * (part + 1) / parts);
    });
  }
}

void multiply_matrix(const LutView& matrix, std::span<const float> x, int64_t batch,
                     const MultiplyOptions& options, float* y) {
  const auto& header = matrix.header;
  const auto plane = Scratch::get(lut_input_bytes(matrix));
  const int64_t worth = header.rows * header.cols / kLutWorkPerThread;
  const int64_t parts = std::clamp<int64_t>(worth, 1, std::max<int64_t>(1, options.threads));
  for (int64_t b = 0; b < batch; ++b) {
    const auto cols = static_cast<size_t>(header.cols);
    const auto input =
        make_lut_input(matrix, x.subspan(static_cast<size_t>(b) * cols, cols), plane);
    run(options, parts, [&](int64_t part) {
      const RowRange range{header.rows * part / parts, header.rows * (part + 1) / parts};
      multiply_lut(matrix, input, options.bias, options.has_relu, y + b * header.rows, range);
    });
  }
}

void multiply_matrix(const Csc16View& matrix, std::span<const float> x, int64_t batch,
                     const MultiplyOptions& options, float* y) {
  const auto& header = matrix.header;
  const auto scratch = Scratch::get(csc16_input_bytes(matrix));
  const int64_t blocks = matrix.blocks();
  for (int64_t b = 0; b < batch; ++b) {
    const auto cols = static_cast<size_t>(header.cols);
    const auto input = make_csc16_input(x.subspan(static_cast<size_t>(b) * cols, cols), scratch);
    const double share = static_cast<double>(input.count) / static_cast<double>(header.cols + 1);
    const auto worth =
        static_cast<int64_t>(share * static_cast<double>(header.nnz)) / kWorkPerThread;
    const int64_t parts =
        std::clamp<int64_t>(worth, 1, std::max<int64_t>(1, std::min(options.threads, blocks)));
    run(options, parts, [&](int64_t part) {
      multiply_csc16(matrix, input, options.bias, options.has_relu, y + b * header.rows,
                     blocks * part / parts, blocks * (part + 1) / parts);
    });
  }
}

}  // namespace

PackedMatrix PackedMatrix::check(std::span<const std::byte> bytes) {
  switch (layout_in(bytes)) {
    case Layout::kCsr16:
      return PackedMatrix(check_csr16(bytes));
    case Layout::kLut:
      return PackedMatrix(check_lut(bytes));
    case Layout::kCsc16:
      return PackedMatrix(check_csc16(bytes));
    default:
      return PackedMatrix(check_pg(bytes));
  }
}

PackedMatrix PackedMatrix::view(std::span<const std::byte> bytes) {
  switch (layout_in(bytes)) {
    case Layout::kCsr16:
      read_csr16_header(bytes);
      return PackedMatrix(view_csr16(bytes));
    case Layout::kLut:
      return PackedMatrix(check_lut(bytes));  // which looks at the header only
    case Layout::kCsc16:
      return PackedMatrix(view_csc16(bytes));
    default:
      read_pg_header(bytes);
      return PackedMatrix(view_pg(bytes));
  }
}

Layout PackedMatrix::layout() const {
  return std::visit(Overloaded{[](const Csr16View&) { return Layout::kCsr16; },
                               [](const PgView& m) { return static_cast<Layout>(m.header.layout); },
                               [](const LutView&) { return Layout::kLut; },
                               [](const Csc16View&) { return Layout::kCsc16; }},
                    matrix_);
}

Precision PackedMatrix::precision() const {
  return std::visit(Overloaded{[](const Csr16View&) { return Precision::kFloat32; },
                               [](const Csc16View&) { return Precision::kFloat32; },
                               [](const auto& m) { return m.precision(); }},
                    matrix_);
}

int64_t PackedMatrix::rows() const {
  return std::visit(Overloaded{[](const Csr16View& m) { return m.rows; },
                               [](const auto& m) { return m.header.rows; }},
                    matrix_);
}

int64_t PackedMatrix::cols() const {
  return std::visit(Overloaded{[](const Csr16View& m) { return m.cols; },
                               [](const auto& m) { return m.header.cols; }},
                    matrix_);
}

int64_t PackedMatrix::nnz() const {
  return std::visit(Overloaded{[](const Csr16View& m) { return m.nnz; },
                               [](const auto& m) { return m.header.nnz; }},
                    matrix_);
}

void PackedMatrix::multiply(std::span<const float> x, int64_t batch, const MultiplyOptions& options,
                            float* y) const {
  std::visit([&](const auto& matrix) { multiply_matrix(matrix, x, batch, options, y); }, matrix_);
}

void PackedMatrix::unpack(float* dense) const {
  std::visit(Overloaded{[&](const Csr16View& matrix) { unpack_csr16(matrix, dense); },
                        [&](const PgView& matrix) { unpack_pg(matrix, dense); },
                        [&](const LutView& matrix) { unpack_lut(matrix, dense); },
                        [&](const Csc16View& matrix) { unpack_csc16(matrix, dense); }},
             matrix_);
}

bool PackedMatrix::finds_rows() const {
  return std::holds_alternative<Csr16View>(matrix_) || std::holds_alternative<LutView>(matrix_);
}

void PackedMatrix::unpack_row(int64_t row, float* dense) const {
  std::visit(Overloaded{[&](const Csr16View& matrix) { unpack_csr16_row(matrix, row, dense); },
                        [&](const LutView& matrix) { unpack_lut_row(matrix, row, dense); },
                        [](const auto&) {}},
             matrix_);
}

}  // namespace pomona
