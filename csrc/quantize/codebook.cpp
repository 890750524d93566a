#include "quantize/codebook.h"

#include "quantize/codebook_kernel.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

namespace pomona {
namespace {

// Of float16, bfloat16, float32 and float64 only: what kernels are made for.
bool is_float_dtype(at::ScalarType dtype) {
  return dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat ||
         dtype == at::kDouble;
}

// Whether a condition on sizes holds; under torch.compile with symbolic sizes it becomes a guard.
bool holds(const c10::SymBool& condition) {
  return condition.expect_true(__FILE__, __LINE__);
}

void check_bits(const char* op, int64_t bits) {
  TORCH_CHECK_VALUE(bits == 1 || bits == 2 || bits == 4 || bits == 8, op,
                    ": expected `bits` to be 1, 2, 4 or 8, got ", bits, ".");
}

void check_entries(const char* op, const char* what, const c10::SymInt& entries, int64_t bits) {
  const int64_t most = int64_t{1} << bits;
  TORCH_CHECK_VALUE(holds(entries.sym_ge(1)) && holds(entries.sym_le(most)), op, ": expected ",
                    what, " in 1..", most, " for codes of ", bits, " bits, got ", entries, ".");
}

void check_codes(const char* op, const at::Tensor& codes, const at::Tensor& other,
                 const char* other_name, const c10::SymInt& count, int64_t bits) {
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kByte, op,
                   ": expected `codes` to be uint8 (packed), got ", codes.scalar_type(), ".");
  TORCH_CHECK_TYPE(codes.device() == other.device(), op, ": expected `codes` on the device of `",
                   other_name, "` (", other.device(), "), got ", codes.device(), ".");
  const c10::SymInt bytes = bits == 8 ? count : (count * bits + 7) / 8;
  TORCH_CHECK_VALUE(holds(codes.sym_numel().sym_eq(bytes)), op, ": expected `codes` to have ",
                    bytes, " bytes (", count, " codes of ", bits, " bits), got ", codes.sym_numel(),
                    ".");
}

}  // namespace

void check_lookup(const at::Tensor& codebook, const at::Tensor& codes, c10::SymIntArrayRef shape,
                  int64_t bits, std::optional<at::ScalarType> dtype) {
  check_bits("lookup", bits);
  TORCH_CHECK_VALUE(codebook.dim() == 1, "lookup: expected `codebook` to have 1 dimension, got ",
                    codebook.dim(), ".");
  TORCH_CHECK_TYPE(is_float_dtype(codebook.scalar_type()),
                   "lookup: expected `codebook` of float16, bfloat16, float32 or float64, got ",
                   codebook.scalar_type(), ".");
  TORCH_CHECK_TYPE(!dtype || is_float_dtype(*dtype),
                   "lookup: expected `dtype` to be float16, bfloat16, float32 or float64, got ",
                   dtype.value_or(at::kFloat), ".");
  check_entries("lookup", "the entries of `codebook`", codebook.sym_size(0), bits);
  c10::SymInt count = 1;
  for (const c10::SymInt& size : shape) {
    TORCH_CHECK_VALUE(holds(size.sym_ge(0)),
                      "lookup: expected `shape` without negative sizes, got ", shape, ".");
    count *= size;
  }
  check_codes("lookup", codes, codebook, "codebook", count, bits);
}

void check_centroid_grad(const at::Tensor& grad, const at::Tensor& codes, const c10::SymInt& k,
                         int64_t bits) {
  check_bits("centroid_grad", bits);
  TORCH_CHECK_TYPE(is_float_dtype(grad.scalar_type()),
                   "centroid_grad: expected `grad` of float16, bfloat16, float32 or float64, got ",
                   grad.scalar_type(), ".");
  check_entries("centroid_grad", "`k`", k, bits);
  check_codes("centroid_grad", codes, grad, "grad", grad.sym_numel(), bits);
}

at::ScalarType sum_dtype(at::ScalarType grad) {
  return grad == at::kDouble ? at::kDouble : at::kFloat;
}

namespace {

std::span<const uint8_t> bytes_of(const at::Tensor& codes) {
  return {codes.const_data_ptr<uint8_t>(), static_cast<size_t>(codes.numel())};
}

// Elements are bit patterns of one size here: `Element` is an unsigned integer.
template <class Element>
void lookup_elements(const at::Tensor& table, const at::Tensor& codes, int64_t bits,
                     const at::Tensor& out) {
  const std::span<const Element, kCodeValues> entries(
      static_cast<const Element*>(table.const_data_ptr()), static_cast<size_t>(kCodeValues));
  const std::span<Element> elements(static_cast<Element*>(out.mutable_data_ptr()),
                                    static_cast<size_t>(out.numel()));
  // In units of 8 elements: `bits` whole bytes of codes.
  at::parallel_for(0, (out.numel() + 7) / 8, kChunk / 8, [&](int64_t begin, int64_t end) {
    lookup_range<Element>(entries, bytes_of(codes), bits, elements, begin * 8,
                          std::min(end * 8, out.numel()));
  });
}

at::Tensor lookup_cpu(const at::Tensor& codebook, const at::Tensor& codes,
                      c10::SymIntArrayRef shape, int64_t bits,
                      std::optional<at::ScalarType> dtype) {
  check_lookup(codebook, codes, shape, bits, dtype);
  const at::Tensor typed = codebook.to(dtype.value_or(codebook.scalar_type()));
  const at::Tensor table = at::constant_pad_nd(typed, {0, kCodeValues - typed.size(0)},
                                               std::numeric_limits<double>::quiet_NaN());
  const at::Tensor out = at::empty(C10_AS_INTARRAYREF_SLOW(shape), typed.options());
  const at::Tensor packed = codes.contiguous();
  switch (out.element_size()) {
    case 2:
      lookup_elements<uint16_t>(table, packed, bits, out);
      break;
    case 4:
      lookup_elements<uint32_t>(table, packed, bits, out);
      break;
    default:
      lookup_elements<uint64_t>(table, packed, bits, out);
  }
  return out;
}

template <class Grad, class Sum>
void centroid_grad_elements(const at::Tensor& grad, const at::Tensor& codes, int64_t bits,
                            const at::Tensor& sums) {
  const std::span<const Grad> elements(grad.const_data_ptr<Grad>(),
                                       static_cast<size_t>(grad.numel()));
  const int64_t chunks = chunk_count(grad.numel());
  const at::Tensor partials = at::empty({chunks * kCodeValues}, sums.options());
  const std::span<Sum> partial_sums(partials.mutable_data_ptr<Sum>(),
                                    static_cast<size_t>(partials.numel()));
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    add_chunks<Grad, Sum>(elements, bytes_of(codes), bits, partial_sums, begin, end);
  });
  add_partials<Sum>(partial_sums,
                    {sums.mutable_data_ptr<Sum>(), static_cast<size_t>(sums.numel())});
}

at::Tensor centroid_grad_cpu(const at::Tensor& grad, const at::Tensor& codes, c10::SymInt k,
                             int64_t bits) {
  check_centroid_grad(grad, codes, k, bits);
  const at::Tensor sums = at::empty({k.guard_int(__FILE__, __LINE__)},
                                    grad.options().dtype(sum_dtype(grad.scalar_type())));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, grad.scalar_type(), "centroid_grad", [&] {
        using Sum = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
        centroid_grad_elements<scalar_t, Sum>(grad.contiguous(), codes.contiguous(), bits, sums);
      });
  return sums;
}

at::Tensor lookup_meta(const at::Tensor& codebook, const at::Tensor& codes,
                       c10::SymIntArrayRef shape, int64_t bits,
                       std::optional<at::ScalarType> dtype) {
  check_lookup(codebook, codes, shape, bits, dtype);
  return at::empty_symint(shape, codebook.options().dtype(dtype.value_or(codebook.scalar_type())));
}

at::Tensor centroid_grad_meta(const at::Tensor& grad, const at::Tensor& codes, c10::SymInt k,
                              int64_t bits) {
  check_centroid_grad(grad, codes, k, bits);
  return at::empty_symint({k}, grad.options().dtype(sum_dtype(grad.scalar_type())));
}

}  // namespace
}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CPU, m) {
  m.impl("lookup", &pomona::lookup_cpu);
  m.impl("centroid_grad", &pomona::centroid_grad_cpu);
}

TORCH_LIBRARY_IMPL(pomona, Meta, m) {
  m.impl("lookup", &pomona::lookup_meta);
  m.impl("centroid_grad", &pomona::centroid_grad_meta);
}
