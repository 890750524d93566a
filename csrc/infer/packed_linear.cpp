#include "infer/packed_linear.h"

#include "pomona/error.h"
#include "pomona/infer.h"

#include "at_parallel.h"
#include "base/text.h"
#include "infer/csr16_kernel.h"
#include "infer/packed_matrix.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/accumulate.h>
#include <torch/library.h>

#include <cstring>

namespace pomona {
namespace {

bool holds(const c10::SymBool& condition) {
  return condition.expect_true(__FILE__, __LINE__);
}

void check_bytes(const char* op, const at::Tensor& packed) {
  TORCH_CHECK_TYPE(packed.scalar_type() == at::kByte, op, ": expected `packed` to be uint8, got ",
                   packed.scalar_type(), ".");
  TORCH_CHECK_VALUE(packed.dim() == 1, op, ": expected `packed` to have 1 dimension, got ",
                    packed.dim(), ".");
  constexpr auto kLeast = static_cast<int64_t>(sizeof(Csr16Header));
  TORCH_CHECK_VALUE(holds(packed.sym_size(0).sym_ge(kLeast)), op,
                    ": expected `packed` of at least ", kLeast, " bytes, got ", packed.sym_size(0),
                    ". Make it with pack().");
}

void check_not_negative(const char* op, const char* what, const c10::SymInt& count) {
  TORCH_CHECK_VALUE(holds(count.sym_ge(0)), op, ": expected `", what, "` of at least 0, got ",
                    count, ".");
}

void check_bias(const at::Tensor& bias, const at::Tensor& input, const c10::SymInt& out_features) {
  TORCH_CHECK_TYPE(bias.scalar_type() == at::kFloat,
                   "packed_linear: expected `bias` to be float32, got ", bias.scalar_type(), ".");
  TORCH_CHECK_TYPE(bias.device() == input.device(),
                   "packed_linear: expected `bias` on the device of `input` (", input.device(),
                   "), got ", bias.device(), ".");
  TORCH_CHECK_VALUE(bias.dim() == 1 && holds(bias.sym_size(0).sym_eq(out_features)),
                    "packed_linear: expected `bias` of shape [", out_features, "], got ",
                    bias.sym_sizes(), ".");
}

}  // namespace

void check_packed_linear(const at::Tensor& input, const at::Tensor& packed,
                         const std::optional<at::Tensor>& bias, const c10::SymInt& out_features) {
  constexpr const char* kOp = "packed_linear";
  TORCH_CHECK_TYPE(input.scalar_type() == at::kFloat, kOp, ": expected `input` to be float32, got ",
                   input.scalar_type(), ". Cast it, or call PackedLinear, which does.");
  check_bytes(kOp, packed);
  TORCH_CHECK_TYPE(packed.device() == input.device(), kOp,
                   ": expected `packed` on the device of `input` (", input.device(), "), got ",
                   packed.device(), ".");
  TORCH_CHECK_VALUE(input.dim() >= 1, kOp,
                    ": expected `input` of shape [..., cols], got a scalar.");
  check_not_negative(kOp, "out_features", out_features);
  if (bias) check_bias(*bias, input, out_features);
}

void check_packed_weight(const at::Tensor& packed, const c10::SymInt& out_features,
                         const c10::SymInt& in_features) {
  check_bytes("packed_weight", packed);
  check_not_negative("packed_weight", "out_features", out_features);
  check_not_negative("packed_weight", "in_features", in_features);
}

void check_packed_embedding(const at::Tensor& indices, const at::Tensor& packed,
                            const c10::SymInt& num_embeddings, const c10::SymInt& embedding_dim) {
  constexpr const char* kOp = "packed_embedding";
  const at::ScalarType dtype = indices.scalar_type();
  TORCH_CHECK_TYPE(dtype == at::kLong || dtype == at::kInt, kOp,
                   ": expected `indices` to be int64 or int32, got ", dtype, ".");
  check_bytes(kOp, packed);
  TORCH_CHECK_TYPE(packed.device() == indices.device(), kOp,
                   ": expected `packed` on the device of `indices` (", indices.device(), "), got ",
                   packed.device(), ".");
  check_not_negative(kOp, "num_embeddings", num_embeddings);
  check_not_negative(kOp, "embedding_dim", embedding_dim);
}

namespace {

std::span<const std::byte> bytes_of(const at::Tensor& packed) {
  return {static_cast<const std::byte*>(packed.const_data_ptr()),
          static_cast<size_t>(packed.numel())};
}

constexpr const char* kWeightShape = "[out_features, in_features]";

}  // namespace

at::Tensor aligned_bytes(const at::Tensor& packed) {
  at::Tensor bytes = packed.contiguous();
  const auto address = reinterpret_cast<uintptr_t>(bytes.const_data_ptr());
  return address % alignof(int64_t) == 0 ? bytes : bytes.clone();
}

PackedMatrix view_of(const char* op, const char* shape, const at::Tensor& packed, int64_t rows,
                     int64_t cols) {
  const auto matrix = [&] {
    try {
      return PackedMatrix::view(bytes_of(packed));
    } catch (const InvalidArgument& error) {
      TORCH_CHECK_VALUE(false, error.what());
    }
  }();
  TORCH_CHECK_VALUE(matrix.rows() == rows && matrix.cols() == cols, op, ": expected the weight ",
                    shape, " of `packed`, [", matrix.rows(), ", ", matrix.cols(), "], got [", rows,
                    ", ", cols, "].");
  return matrix;
}

namespace {

at::Tensor packed_linear_cpu(const at::Tensor& input, const at::Tensor& packed,
                             const std::optional<at::Tensor>& bias, int64_t out_features,
                             bool relu) {
  check_packed_linear(input, packed, bias, out_features);
  const at::Tensor bytes = aligned_bytes(packed);
  const auto matrix = view_of("packed_linear", kWeightShape, bytes, out_features, input.size(-1));
  const auto leading = input.sizes().slice(0, static_cast<size_t>(input.dim() - 1));
  auto sizes = leading.vec();
  sizes.push_back(out_features);
  const at::Tensor x = input.contiguous(), y = at::empty(sizes, input.options());
  const at::Tensor b = bias ? bias->contiguous() : at::Tensor();
  matrix.multiply({x.const_data_ptr<float>(), static_cast<size_t>(x.numel())},
                  c10::multiply_integers(leading),
                  {.bias = b.defined() ? b.const_data_ptr<float>() : nullptr,
                   .has_relu = relu,
                   .parallel_for = at_parallel(),
                   .threads = at::get_num_threads()},
                  y.mutable_data_ptr<float>());
  return y;
}

at::Tensor packed_linear_meta(const at::Tensor& input, const at::Tensor& packed,
                              const std::optional<at::Tensor>& bias, c10::SymInt out_features,
                              bool) {
  check_packed_linear(input, packed, bias, out_features);
  auto sizes = input.sym_sizes().vec();
  sizes.back() = std::move(out_features);
  return at::empty_symint(sizes, input.options());
}

at::Tensor packed_weight_cpu(const at::Tensor& packed, int64_t out_features, int64_t in_features) {
  check_packed_weight(packed, out_features, in_features);
  const at::Tensor bytes = aligned_bytes(packed);
  const auto matrix = view_of("packed_weight", kWeightShape, bytes, out_features, in_features);
  const at::Tensor weight =
      at::zeros({out_features, in_features}, packed.options().dtype(at::kFloat));
  matrix.unpack(weight.mutable_data_ptr<float>());
  return weight;
}

at::Tensor packed_weight_meta(const at::Tensor& packed, c10::SymInt out_features,
                              c10::SymInt in_features) {
  check_packed_weight(packed, out_features, in_features);
  return at::empty_symint({std::move(out_features), std::move(in_features)},
                          packed.options().dtype(at::kFloat));
}

}  // namespace

at::Tensor to_tensor(const Packed& packed) {
  at::Tensor bytes = at::empty({static_cast<int64_t>(packed.bytes.size())}, at::kByte);
  if (!packed.bytes.empty()) {
    std::memcpy(bytes.mutable_data_ptr(), packed.bytes.data(), packed.bytes.size());
  }
  return bytes;
}

namespace {

// On the CPU, where a kernel can read it.
at::Tensor readable(const char* what, const at::Tensor& packed) {
  if (packed.defined() && packed.scalar_type() == at::kByte && packed.dim() == 1 &&
      !packed.is_meta()) {
    return aligned_bytes(packed.cpu());
  }
  throw InvalidArgument(
      text(what,
           ": expected `packed` to be a uint8 tensor of 1 dimension that has data, got "
           "another. Make it with pack()."));
}

}  // namespace

Packed from_tensor(const at::Tensor& packed) {
  return check_packed(bytes_of(readable("from_tensor", packed)));
}

Packed facts_of(const at::Tensor& packed) {
  const at::Tensor bytes = readable("facts_of", packed);
  const auto matrix = PackedMatrix::check(bytes_of(bytes));
  return {matrix.layout(), matrix.precision(), matrix.rows(), matrix.cols(), matrix.nnz(), {}};
}

}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CPU, m) {
  m.impl("packed_linear", &pomona::packed_linear_cpu);
  m.impl("packed_weight", &pomona::packed_weight_cpu);
}

TORCH_LIBRARY_IMPL(pomona, Meta, m) {
  m.impl("packed_linear", &pomona::packed_linear_meta);
  m.impl("packed_weight", &pomona::packed_weight_meta);
}
