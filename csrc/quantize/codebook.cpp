#include "quantize/codebook.h"

#include "quantize/codebook_kernel.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

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

void check_group(const char* op, const c10::SymInt& group) {
  TORCH_CHECK_VALUE(holds(group.sym_ge(0)), op, ": expected `group` to be 0 (all) or more, got ",
                    group, ".");
}

void check_entries(const char* op, const char* what, const c10::SymInt& entries,
                   const CodeFormat& format) {
  const int64_t most = (int64_t{1} << format.bits) - (format.has_zero ? 1 : 0);
  const int64_t least = format.has_zero ? 0 : 1;
  TORCH_CHECK_VALUE(holds(entries.sym_ge(least)) && holds(entries.sym_le(most)), op, ": expected ",
                    what, " in ", least, "..", most, " for codes of ", format.bits, " bits",
                    format.has_zero ? " and the zero" : "", ", got ", entries, ".");
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

bool is_grouped(const CodeFormat& format) {
  return holds(format.group.sym_gt(0));
}

c10::SymInt groups_of(const c10::SymInt& count, const CodeFormat& format) {
  return (count + format.group - 1) / format.group;
}

c10::SymInt numel_of(c10::SymIntArrayRef shape) {
  c10::SymInt count = 1;
  for (const c10::SymInt& size : shape) {
    TORCH_CHECK_VALUE(holds(size.sym_ge(0)),
                      "lookup: expected `shape` without negative sizes, got ", shape, ".");
    count *= size;
  }
  return count;
}

}  // namespace

void check_lookup(const at::Tensor& codebook, const at::Tensor& codes, c10::SymIntArrayRef shape,
                  const CodeFormat& format, std::optional<at::ScalarType> dtype) {
  check_bits("lookup", format.bits);
  check_group("lookup", format.group);
  const int64_t dims = is_grouped(format) ? 2 : 1;
  TORCH_CHECK_VALUE(codebook.dim() == dims, "lookup: expected `codebook` to have ", dims,
                    " dimension", dims == 1 ? "" : "s [groups, k]", ", got ", codebook.dim(), ".");
  TORCH_CHECK_TYPE(is_float_dtype(codebook.scalar_type()),
                   "lookup: expected `codebook` of float16, bfloat16, float32 or float64, got ",
                   codebook.scalar_type(), ".");
  TORCH_CHECK_TYPE(!dtype || is_float_dtype(*dtype),
                   "lookup: expected `dtype` to be float16, bfloat16, float32 or float64, got ",
                   dtype.value_or(at::kFloat), ".");
  check_entries("lookup", "the entries of `codebook`", codebook.sym_size(-1), format);
  const c10::SymInt count = numel_of(shape);
  if (dims == 2) {
    const c10::SymInt groups = groups_of(count, format);
    TORCH_CHECK_VALUE(holds(codebook.sym_size(0).sym_eq(groups)), "lookup: expected `codebook` of ",
                      groups, " rows (", count, " elements in groups of ", format.group, "), got ",
                      codebook.sym_size(0), ".");
  }
  check_codes("lookup", codes, codebook, "codebook", count, format.bits);
}

void check_lookup_into_(const at::Tensor& out, const at::Tensor& codebook, const at::Tensor& codes,
                        const CodeFormat& format) {
  check_lookup(codebook, codes, out.sym_sizes(), format, out.scalar_type());
  TORCH_CHECK_TYPE(out.device() == codebook.device(), "lookup_into_: expected `out` on ",
                   codebook.device(), ", got ", out.device(), ".");
  TORCH_CHECK_VALUE(out.is_contiguous(), "lookup_into_: expected `out` to be contiguous, got ",
                    out.sym_sizes(), " with strides ", out.sym_strides(), ".");
}

void check_centroid_grad(const at::Tensor& grad, const at::Tensor& codes, const c10::SymInt& k,
                         const CodeFormat& format) {
  check_bits("centroid_grad", format.bits);
  check_group("centroid_grad", format.group);
  TORCH_CHECK_TYPE(is_float_dtype(grad.scalar_type()),
                   "centroid_grad: expected `grad` of float16, bfloat16, float32 or float64, got ",
                   grad.scalar_type(), ".");
  check_entries("centroid_grad", "`k`", k, format);
  check_codes("centroid_grad", codes, grad, "grad", grad.sym_numel(), format.bits);
}

at::ScalarType sum_dtype(at::ScalarType grad) {
  return grad == at::kDouble ? at::kDouble : at::kFloat;
}

std::vector<c10::SymInt> sums_shape(const at::Tensor& grad, const c10::SymInt& k,
                                    const CodeFormat& format) {
  if (!is_grouped(format)) return {k};
  return {groups_of(grad.sym_numel(), format), k};
}

at::Tensor kernel_codebook(const at::Tensor& codebook, bool has_zero, at::ScalarType dtype) {
  const at::Tensor typed = codebook.to(dtype);
  return has_zero ? at::constant_pad_nd(typed, {1, 0}) : typed.contiguous();
}

namespace {

// The layout of `count` elements. REQUIRES: packed is contiguous; checked.
CodeLayout layout_of(const at::Tensor& packed, int64_t count, int64_t k, const CodeFormat& format) {
  const int64_t group = format.group.guard_int(__FILE__, __LINE__);
  return {{packed.const_data_ptr<uint8_t>(), static_cast<size_t>(packed.numel())},
          static_cast<int>(format.bits),
          count,
          group > 0 ? group : std::max<int64_t>(count, 1),
          k};
}

// A large fresh output is written once, page by page, and a page fault costs more than the thousand
// look-ups that fill a plain page: ask for huge ones.
void advise_huge_pages(const at::Tensor& out) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHuge = uintptr_t{2} << 20;
  const auto begin = reinterpret_cast<uintptr_t>(out.mutable_data_ptr());
  const uintptr_t first = (begin + kHuge - 1) / kHuge * kHuge;
  const uintptr_t last = (begin + out.nbytes()) / kHuge * kHuge;
  if (last > first + kHuge) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  (void)out;
}

// Elements are bit patterns of one size here: `Element` is an unsigned integer.
template <class Element>
void lookup_elements(const at::Tensor& codebooks, const CodeLayout& layout, const at::Tensor& out) {
  const std::span<const Element> entries(static_cast<const Element*>(codebooks.const_data_ptr()),
                                         static_cast<size_t>(codebooks.numel()));
  auto* elements = static_cast<Element*>(out.mutable_data_ptr());
  // In units of 64 elements, so that each thread's part begins at a byte and at a cache line.
  at::parallel_for(0, (layout.size + 63) / 64, kChunk / 64, [&](int64_t begin, int64_t end) {
    lookup_range<Element>(entries, layout, elements + begin * 64, begin * 64,
                          std::min(end * 64, layout.size));
  });
}

void lookup_into(const at::Tensor& codebook, const at::Tensor& codes, const CodeFormat& format,
                 const at::Tensor& out) {
  const at::Tensor codebooks = kernel_codebook(codebook, format.has_zero, out.scalar_type());
  const at::Tensor packed = codes.contiguous();
  const CodeLayout layout = layout_of(packed, out.numel(), codebooks.size(-1), format);
  switch (out.element_size()) {
    case 2:
      return lookup_elements<uint16_t>(codebooks, layout, out);
    case 4:
      return lookup_elements<uint32_t>(codebooks, layout, out);
    default:
      return lookup_elements<uint64_t>(codebooks, layout, out);
  }
}

at::Tensor lookup_cpu(const at::Tensor& codebook, const at::Tensor& codes,
                      c10::SymIntArrayRef shape, int64_t bits, c10::SymInt group, bool has_zero,
                      std::optional<at::ScalarType> dtype) {
  const CodeFormat format{bits, std::move(group), has_zero};
  check_lookup(codebook, codes, shape, format, dtype);
  const at::Tensor out =
      at::empty(C10_AS_INTARRAYREF_SLOW(shape),
                codebook.options().dtype(dtype.value_or(codebook.scalar_type())));
  advise_huge_pages(out);
  lookup_into(codebook, codes, format, out);
  return out;
}

void lookup_into_cpu(const at::Tensor& out, const at::Tensor& codebook, const at::Tensor& codes,
                     int64_t bits, c10::SymInt group, bool has_zero) {
  const CodeFormat format{bits, std::move(group), has_zero};
  check_lookup_into_(out, codebook, codes, format);
  lookup_into(codebook, codes, format, out);
}

template <class Grad, class Sum>
void centroid_grad_elements(const at::Tensor& grad, const CodeLayout& layout,
                            const at::Tensor& sums) {
  const Chunks chunks(layout);
  const at::Tensor partials = at::empty({chunks.count * layout.k}, sums.options());
  const std::span<Sum> partial_sums(partials.mutable_data_ptr<Sum>(),
                                    static_cast<size_t>(partials.numel()));
  const int64_t grain = std::max<int64_t>(1, kChunk / std::min(layout.group, kChunk));
  at::parallel_for(0, chunks.count, grain, [&](int64_t begin, int64_t end) {
    add_chunks<Grad, Sum>(grad.const_data_ptr<Grad>(), layout, partial_sums, begin, end);
  });
  add_partials<Sum>(partial_sums, layout,
                    {sums.mutable_data_ptr<Sum>(), static_cast<size_t>(sums.numel())});
}

at::Tensor centroid_grad_cpu(const at::Tensor& grad, const at::Tensor& codes, c10::SymInt k,
                             int64_t bits, c10::SymInt group, bool has_zero) {
  const CodeFormat format{bits, std::move(group), has_zero};
  check_centroid_grad(grad, codes, k, format);
  const auto shape = sums_shape(grad, k + (has_zero ? 1 : 0), format);
  const at::Tensor sums = at::empty(C10_AS_INTARRAYREF_SLOW(shape),
                                    grad.options().dtype(sum_dtype(grad.scalar_type())));
  const at::Tensor packed = codes.contiguous();
  const CodeLayout layout = layout_of(packed, grad.numel(), sums.size(-1), format);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, grad.scalar_type(), "centroid_grad", [&] {
        using Sum = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
        centroid_grad_elements<scalar_t, Sum>(grad.contiguous(), layout, sums);
      });
  if (grad.numel() == 0) sums.zero_();
  return has_zero ? sums.slice(-1, 1).clone() : sums;
}

at::Tensor lookup_meta(const at::Tensor& codebook, const at::Tensor& codes,
                       c10::SymIntArrayRef shape, int64_t bits, c10::SymInt group, bool has_zero,
                       std::optional<at::ScalarType> dtype) {
  check_lookup(codebook, codes, shape, {bits, std::move(group), has_zero}, dtype);
  return at::empty_symint(shape, codebook.options().dtype(dtype.value_or(codebook.scalar_type())));
}

void lookup_into_meta(const at::Tensor& out, const at::Tensor& codebook, const at::Tensor& codes,
                      int64_t bits, c10::SymInt group, bool has_zero) {
  check_lookup_into_(out, codebook, codes, {bits, std::move(group), has_zero});
}

at::Tensor centroid_grad_meta(const at::Tensor& grad, const at::Tensor& codes, c10::SymInt k,
                              int64_t bits, c10::SymInt group, bool has_zero) {
  const CodeFormat format{bits, std::move(group), has_zero};
  check_centroid_grad(grad, codes, k, format);
  return at::empty_symint(sums_shape(grad, k, format),
                          grad.options().dtype(sum_dtype(grad.scalar_type())));
}

}  // namespace
}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CPU, m) {
  m.impl("lookup", &pomona::lookup_cpu);
  m.impl("lookup_into_", &pomona::lookup_into_cpu);
  m.impl("centroid_grad", &pomona::centroid_grad_cpu);
}

TORCH_LIBRARY_IMPL(pomona, Meta, m) {
  m.impl("lookup", &pomona::lookup_meta);
  m.impl("lookup_into_", &pomona::lookup_into_meta);
  m.impl("centroid_grad", &pomona::centroid_grad_meta);
}
