#include "pomona/packed.h"

#include "pomona/error.h"

#include "base/float16.h"
#include "base/isa.h"
#include "base/text.h"
#include "format/find_codebooks.h"
#include "infer/csc16_kernel.h"
#include "infer/csr16_kernel.h"
#include "infer/float_weight.h"
#include "infer/lut_layout.h"
#include "infer/packed_matrix.h"
#include "infer/pg_layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace pomona {
namespace {

// The share of the weights from which on lut is the first to try: where benchmarks of language
// models cross with AVX2, and an estimate with AVX-512.
double full_from(Precision precision) {
  const bool is_int8 = precision == Precision::kInt8;
  if (has_isa(Isa::kAvx512)) return is_int8 ? 0.35 : 0.45;
  return is_int8 ? 0.22 : 0.36;
}

// REQUIRES: float32.
bool is_finite(const Weight& weight) {
  const auto is_finite_value = [](float value) { return std::isfinite(value); };
  std::vector<float> values(weight.values.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), weight.values.data(), weight.values.size());
  return std::ranges::all_of(weight.codebook, is_finite_value) &&
         std::ranges::all_of(values, is_finite_value);
}

std::string quoted(const std::string& name) {
  return name.empty() ? "the weight" : text("`", name, "`");
}

}  // namespace

std::string_view layout_name(Layout layout) {
  switch (layout) {
    case Layout::kCsr16:
      return "csr16";
    case Layout::kPg32:
      return "pg32";
    case Layout::kPgv:
      return "pgv";
    case Layout::kLut:
      return "lut";
    case Layout::kCsc16:
      return "csc16";
  }
  throw InvalidArgument(
      text("layout_name: expected a layout, got ", static_cast<int>(layout), "."));
}

Layout layout_of(std::string_view name) {
  for (const Layout layout :
       {Layout::kCsr16, Layout::kPg32, Layout::kPgv, Layout::kLut, Layout::kCsc16}) {
    if (layout_name(layout) == name) return layout;
  }
  throw InvalidArgument(
      text("pack: expected `layout` to be csr16, pg32, pgv, lut or csc16, got ", name, "."));
}

std::string_view precision_name(Precision precision) {
  switch (precision) {
    case Precision::kFloat32:
      return "fp32";
    case Precision::kBFloat16:
      return "bf16";
    case Precision::kFixed16:
      return "fixed16";
    case Precision::kInt8:
      return "int8";
  }
  throw InvalidArgument(
      text("precision_name: expected a precision, got ", static_cast<int>(precision), "."));
}

Precision precision_of(std::string_view name) {
  for (const Precision precision :
       {Precision::kFloat32, Precision::kBFloat16, Precision::kFixed16, Precision::kInt8}) {
    if (precision_name(precision) == name) return precision;
  }
  throw InvalidArgument(
      text("pack: expected `precision` to be fp32, bf16, fixed16 or int8, got ", name, "."));
}

std::vector<Precision> fast_precisions() {
  std::vector<Precision> found{Precision::kFloat32};
  if (has_isa(Isa::kAvx512BFloat16)) found.push_back(Precision::kBFloat16);
  if (has_isa(Isa::kAvx2)) found.insert(found.end(), {Precision::kFixed16, Precision::kInt8});
  return found;
}

namespace {

// The matrix in float32. Throws as pack().
Weight checked_matrix(const Weight& weight) {
  weight.check();
  if (weight.dtype != DType::kFloat32 && weight.dtype != DType::kFloat16 &&
      weight.dtype != DType::kBFloat16) {
    throw InvalidArgument(text("pack: expected ", quoted(weight.name),
                               " to be float32, float16 or bfloat16, got ",
                               dtype_name(weight.dtype), "."));
  }
  if (weight.shape.size() != 2) {
    throw InvalidArgument(text("pack: expected ", quoted(weight.name),
                               " to have 2 dimensions [rows, cols], got ", weight.shape.size(),
                               "."));
  }
  Weight matrix = float_weight(weight);
  if (!is_finite(matrix)) {
    throw InvalidArgument(
        text("pack: expected ", quoted(weight.name), " to be finite, got NaN or Inf."));
  }
  return matrix;
}

// With a codebook, though plain values be smaller; as it is where there are too many of them.
Weight with_few_values(Weight matrix) {
  if (matrix.is_shared()) return matrix;
  auto shared = with_codebook(matrix);
  return shared ? *std::move(shared) : std::move(matrix);
}

bool is_bfloat16(const Weight& matrix) {
  return std::ranges::all_of(matrix.codebook, [](float value) {
    return float_from_bfloat16(bfloat16_from_float(value)) == value;
  });
}

std::string why_not(const Weight& matrix, Layout layout, PackedForm form, Precision precision) {
  return layout == Layout::kLut ? why_not_lut(matrix, form, precision)
                                : why_not_pg(matrix, form, precision);
}

// The arithmetic of a layout other than csr16 and csc16: pairs of bfloat16 where they hold the
// codebook and x well enough and take fewer cycles, or where the codebook has no room elsewhere.
PackedForm form_of(const Weight& matrix, const PackOptions& options) {
  if (options.layout == Layout::kPgv || options.precision == Precision::kInt8) {
    return PackedForm::kBytes;
  }
  if (options.precision == Precision::kBFloat16) return PackedForm::kBFloat16;
  if (!has_isa(Isa::kAvx512BFloat16)) return PackedForm::kFloat32;
  const auto fits = [&](PackedForm form) {
    return why_not(matrix, options.layout, form, Precision::kFloat32).empty();
  };
  const bool is_better = is_bfloat16(matrix) || !fits(PackedForm::kFloat32);
  return is_better && fits(PackedForm::kBFloat16) ? PackedForm::kBFloat16 : PackedForm::kFloat32;
}

std::string why_not(const Weight& matrix, const PackOptions& options) {
  const auto precision = options.precision;
  if (options.layout == Layout::kCsr16 || options.layout == Layout::kCsc16) {
    if (precision != Precision::kFloat32) {
      return text(layout_name(options.layout), " computes in fp32, not in ",
                  precision_name(precision));
    }
    return options.layout == Layout::kCsc16 ? why_not_csc16(matrix) : "";
  }
  const bool is_bytes = precision == Precision::kFixed16 || precision == Precision::kInt8;
  if (options.layout != Layout::kLut && is_bytes != (options.layout == Layout::kPgv)) {
    return text(layout_name(options.layout), " does not compute in ", precision_name(precision));
  }
  return why_not(matrix, options.layout, form_of(matrix, options), precision);
}

std::vector<std::byte> bytes_of(const Weight& matrix, const PackOptions& options,
                                const ParallelFor& parallel_for) {
  switch (options.layout) {
    case Layout::kCsr16:
      return pack_csr16(matrix);
    case Layout::kCsc16:
      return pack_csc16(matrix);
    case Layout::kLut:
      return pack_lut(matrix, form_of(matrix, options), options.precision);
    case Layout::kPg32:
    case Layout::kPgv:
      return pack_pg(matrix, form_of(matrix, options), options.precision,
                     options.is_quick ? PgEffort::kQuick : PgEffort::kThorough, parallel_for);
  }
  return {};
}

}  // namespace

std::string why_not_packed(const Weight& weight, const PackOptions& options) {
  layout_name(options.layout);
  precision_name(options.precision);
  return why_not(with_few_values(checked_matrix(weight)), options);
}

std::vector<PackOptions> layouts_for(const Weight& weight, Precision precision) {
  precision_name(precision);
  const Weight matrix = with_few_values(checked_matrix(weight));
  std::vector<PackOptions> found;
  // Tiles want vectors. Where many weights are kept, positions cost more than zeros. Only a guess:
  // pack_ measures.
  std::vector<Layout> order{Layout::kPgv, Layout::kPg32, Layout::kCsr16};
  if (!has_isa(Isa::kAvx2)) std::ranges::reverse(order);
  const bool is_full = static_cast<double>(matrix.mask.kept()) >
                       full_from(precision) * static_cast<double>(matrix.mask.size());
  order.insert(is_full ? order.begin() : order.end(), Layout::kLut);
  order.push_back(Layout::kCsc16);  // nobody knows yet how sparse x will be
  for (const Layout layout : order) {
    const PackOptions options{.layout = layout, .precision = precision};
    if (why_not(matrix, options).empty()) found.push_back(options);
  }
  return found;
}

Packed pack(const Weight& weight, const PackOptions& options, const ParallelFor& parallel_for) {
  layout_name(options.layout);
  precision_name(options.precision);
  const bool is_csr16 = options.layout == Layout::kCsr16;
  Weight checked = checked_matrix(weight);
  const Weight matrix = is_csr16 ? std::move(checked) : with_few_values(std::move(checked));
  if (const auto why = why_not(matrix, options); !why.empty()) {
    throw InvalidArgument(text(
        "pack: expected ", quoted(weight.name), " to fit ", layout_name(options.layout), " in ",
        precision_name(options.precision), ", got a matrix that does not: ", why, "."));
  }
  auto bytes = bytes_of(matrix, options, parallel_for);
  return {options.layout,  options.precision,  matrix.shape[0],
          matrix.shape[1], matrix.mask.kept(), std::move(bytes)};
}

Packed pack_rows(const Weight& weight) {
  Packed packed = pack(weight);
  const PackOptions lut{.layout = Layout::kLut};
  if (!why_not_packed(weight, lut).empty()) return packed;
  Packed other = pack(weight, lut);
  return other.bytes.size() < packed.bytes.size() ? other : packed;
}

Packed check_packed(std::span<const std::byte> bytes) {
  const auto matrix = PackedMatrix::check(bytes);
  return {matrix.layout(), matrix.precision(), matrix.rows(),
          matrix.cols(),   matrix.nnz(),       {bytes.begin(), bytes.end()}};
}

std::vector<float> unpack(std::span<const std::byte> packed) {
  const auto matrix = PackedMatrix::view(packed);
  std::vector<float> dense(static_cast<size_t>(matrix.rows() * matrix.cols()));
  matrix.unpack(dense.data());
  return dense;
}

void multiply(std::span<const std::byte> packed, std::span<const float> x, int64_t batch,
              std::span<float> y, const MultiplyOptions& options) {
  PackedMatrix::view(packed).multiply(x, batch, options, y.data());
}

}  // namespace pomona
