#include "pomona/packed.h"

#include "pomona/error.h"

#include "base/text.h"
#include "infer/csr16_kernel.h"
#include "infer/float_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace pomona {
namespace {

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
  }
  throw InvalidArgument(
      text("layout_name: expected a layout, got ", static_cast<int>(layout), "."));
}

Packed pack(const Weight& weight, Layout layout) {
  layout_name(layout);
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
  const Weight matrix = float_weight(weight);
  if (!is_finite(matrix)) {
    throw InvalidArgument(
        text("pack: expected ", quoted(weight.name), " to be finite, got NaN or Inf."));
  }
  return {layout, matrix.shape[0], matrix.shape[1], matrix.mask.kept(), pack_csr16(matrix)};
}

Packed check_packed(std::span<const std::byte> bytes) {
  const auto view = check_csr16(bytes);
  return {Layout::kCsr16, view.rows, view.cols, view.nnz, {bytes.begin(), bytes.end()}};
}

std::vector<float> unpack(std::span<const std::byte> packed) {
  const auto matrix = view_csr16(packed);
  std::vector<float> dense(static_cast<size_t>(matrix.rows * matrix.cols));
  unpack_csr16(matrix, dense.data());
  return dense;
}

void multiply(std::span<const std::byte> packed, std::span<const float> x, int64_t batch,
              std::span<float> y) {
  const auto matrix = view_csr16(packed);
  multiply_csr16(matrix, x.data(), batch, nullptr, y.data(), {0, matrix.rows});
}

}  // namespace pomona
