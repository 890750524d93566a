// pool_gradients_ and snap_weights_: what training shared weights does before and after the
// optimizer's step, many tensors in one call.
#include "quantize/clusters.h"

#include "in_place.h"
#include "quantize/clusters_kernel.h"

#include <ATen/Dispatch.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <atomic>
#include <type_traits>
#include <vector>

namespace pomona {
namespace {

constexpr int kCodeBits = 8;  // codes are not packed here

void check_codes(const char* op, const char* written, const at::Tensor& tensor,
                 const at::Tensor& codes, size_t i) {
  TORCH_CHECK_TYPE(tensor.layout() == at::kStrided && at::isFloatingType(tensor.scalar_type()), op,
                   ": expected ", written, "[", i, "] to be dense and floating-point, got layout ",
                   tensor.layout(), " and dtype ", tensor.scalar_type(), ".");
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kByte, op, ": expected codes[", i,
                   "] to be uint8, got ", codes.scalar_type(), ".");
  TORCH_CHECK_VALUE(codes.sym_sizes() == tensor.sym_sizes() && codes.is_contiguous(), op,
                    ": expected codes[", i, "] to be contiguous, of shape ", tensor.sym_sizes(),
                    ", got ", codes.sym_sizes(), " with strides ", codes.sym_strides(), ".");
  at::assert_no_internal_overlap(tensor);
}

// One row of clusters for each group, of the same device as the tensor.
void check_clusters(const char* op, const char* name, const at::Tensor& clusters,
                    at::ScalarType dtype, const at::Tensor& tensor, int64_t group, size_t i) {
  TORCH_CHECK_TYPE(clusters.scalar_type() == dtype && clusters.device() == tensor.device(), op,
                   ": expected ", name, "[", i, "] to be ", dtype, " on ", tensor.device(),
                   ", got ", clusters.scalar_type(), " on ", clusters.device(), ".");
  TORCH_CHECK_VALUE(group >= 0, op, ": expected groups[", i, "] to be 0 (all) or more, got ", group,
                    ".");
  const c10::SymInt groups = group == 0 ? c10::SymInt(1) : (tensor.sym_numel() + group - 1) / group;
  TORCH_CHECK_VALUE(clusters.dim() == 2 && clusters.is_contiguous() &&
                        clusters.sym_size(0) == groups && clusters.sym_size(1) >= 1 &&
                        clusters.sym_size(1) <= kCodeValues,
                    op, ": expected ", name, "[", i, "] to be contiguous, of shape [", groups,
                    ", 1 to 256], got ", clusters.sym_sizes(), ".");
}

void check_lengths(const char* op, const char* written, size_t size,
                   std::initializer_list<std::pair<const char*, size_t>> others) {
  for (const auto& [name, other] : others) {
    TORCH_CHECK_VALUE(other == size, op, ": expected as many `", name, "` as `", written, "` (",
                      size, "), got ", other, ".");
  }
}

CodeLayout layout_of(const at::Tensor& codes, int64_t group, int64_t k) {
  return {{codes.const_data_ptr<uint8_t>(), static_cast<size_t>(codes.numel())},
          kCodeBits,
          codes.numel(),
          group > 0 ? group : std::max<int64_t>(codes.numel(), 1),
          k};
}

template <class Element>
std::span<const Element> span_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<Element>(), static_cast<size_t>(tensor.numel())};
}

// add(partials, begin, end) for the chunks of a layout, on all threads -> the sums of the clusters.
template <class Sum, class Add>
std::vector<Sum> sums_of(const CodeLayout& layout, const Add& add) {
  const Chunks chunks(layout);
  std::vector<Sum> partials(static_cast<size_t>(chunks.count * layout.k));
  const int64_t grain = std::max<int64_t>(1, kChunk / std::min(layout.group, kChunk));
  at::parallel_for(0, chunks.count, grain,
                   [&](int64_t begin, int64_t end) { add(std::span<Sum>(partials), begin, end); });
  std::vector<Sum> sums(static_cast<size_t>(layout.groups() * layout.k));
  add_partials<Sum>(partials, layout, sums);
  return sums;
}

// The 16-bit types of c10 are made from float.
template <class Float>
Float narrowed(double value) {
  using Wide = std::conditional_t<std::is_same_v<Float, double>, double, float>;
  return static_cast<Float>(static_cast<Wide>(value));
}

// Writes entries[cluster] to every element. Elements are bit patterns of one size.
template <class Float>
void write_entries(std::span<const Float> entries, const CodeLayout& layout, Float* out) {
  using Word = std::conditional_t<sizeof(Float) == 2, uint16_t,
                                  std::conditional_t<sizeof(Float) == 4, uint32_t, uint64_t>>;
  const std::span words(reinterpret_cast<const Word*>(entries.data()), entries.size());
  auto* elements = reinterpret_cast<Word*>(out);
  at::parallel_for(0, (layout.size + 63) / 64, kChunk / 64, [&](int64_t begin, int64_t end) {
    lookup_range<Word>(words, layout, elements + begin * 64, begin * 64,
                       std::min(end * 64, layout.size));
  });
}

// Whether any element has other bits than its entry.
template <class Float>
bool any_differs(std::span<const Float> entries, const CodeLayout& layout, const Float* values) {
  using Word = std::conditional_t<sizeof(Float) == 2, uint16_t,
                                  std::conditional_t<sizeof(Float) == 4, uint32_t, uint64_t>>;
  const std::span words(reinterpret_cast<const Word*>(entries.data()), entries.size());
  const auto* elements = reinterpret_cast<const Word*>(values);
  std::atomic<bool> found = false;
  at::parallel_for(0, layout.size, kChunk, [&](int64_t begin, int64_t end) {
    if (!found && differs<Word>(elements, words, layout, begin, end)) found = true;
  });
  return found;
}

template <class Float>
void pool_gradient(const at::Tensor& gradient, const CodeLayout& layout,
                   std::span<const double> counts, bool mean) {
  using Sum = std::conditional_t<std::is_same_v<Float, double>, double, float>;
  auto* elements = gradient.mutable_data_ptr<Float>();
  const auto sums = sums_of<Sum>(layout, [&](std::span<Sum> partials, int64_t begin, int64_t end) {
    add_chunks<Float, Sum>(elements, layout, partials, begin, end);
  });
  std::vector<Float> entries;
  entries.reserve(sums.size());
  for (size_t c = 0; c < sums.size(); ++c) {
    const double pooled = counts[c] == 0 ? 0.0
                          : mean         ? double{sums[c]} / counts[c]
                                         : double{sums[c]};
    entries.push_back(narrowed<Float>(pooled));
  }
  write_entries<Float>(entries, layout, elements);
}

// The usual end is that nothing is to be done: an element-wise optimizer gives equal members equal
// bits.
template <class Float>
void snap_weight(const at::Tensor& weight, const CodeLayout& layout, std::span<const double> counts,
                 std::span<const int64_t> first) {
  auto* elements = weight.mutable_data_ptr<Float>();
  std::vector<Float> entries(first.size(), Float(0));
  std::vector<double> members(first.size(), 0.0);
  for (size_t c = 0; c < first.size(); ++c) {
    if (counts[c] == 0 || first[c] < 0) continue;
    entries[c] = elements[first[c]];
    members[c] = static_cast<double>(entries[c]);
  }
  if (!any_differs<Float>(entries, layout, elements)) return;
  const auto sums =
      sums_of<double>(layout, [&](std::span<double> partials, int64_t begin, int64_t end) {
        add_distances<Float>(elements, layout, members, partials, begin, end);
      });
  for (size_t c = 0; c < first.size(); ++c) {
    if (counts[c] > 0) entries[c] = narrowed<Float>(members[c] + sums[c] / counts[c]);
  }
  write_entries<Float>(entries, layout, elements);
}

// f(contiguous) on a tensor of any strides.
template <class Function>
void with_contiguous(const at::Tensor& tensor, const Function& f) {
  const at::Tensor contiguous = tensor.contiguous();
  f(contiguous);
  if (!contiguous.is_same(tensor)) tensor.copy_(contiguous);
}

void pool_gradients_cpu(at::TensorList gradients, at::TensorList codes, at::TensorList counts,
                        at::IntArrayRef groups, bool mean) {
  check_pool_gradients_(gradients, codes, counts, groups);
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (gradients[i].numel() == 0) continue;
    const CodeLayout layout = layout_of(codes[i], groups[i], counts[i].size(1));
    with_contiguous(gradients[i], [&](const at::Tensor& gradient) {
      AT_DISPATCH_FLOATING_TYPES_AND2(
          at::kHalf, at::kBFloat16, gradient.scalar_type(), "pool_gradients_",
          [&] { pool_gradient<scalar_t>(gradient, layout, span_of<double>(counts[i]), mean); });
    });
  }
}

void snap_weights_cpu(at::TensorList weights, at::TensorList codes, at::TensorList counts,
                      at::TensorList first, at::IntArrayRef groups) {
  check_snap_weights_(weights, codes, counts, first, groups);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].numel() == 0) continue;
    const CodeLayout layout = layout_of(codes[i], groups[i], counts[i].size(1));
    with_contiguous(weights[i], [&](const at::Tensor& weight) {
      AT_DISPATCH_FLOATING_TYPES_AND2(
          at::kHalf, at::kBFloat16, weight.scalar_type(), "snap_weights_", [&] {
            snap_weight<scalar_t>(weight, layout, span_of<double>(counts[i]),
                                  span_of<int64_t>(first[i]));
          });
    });
  }
}

void pool_gradients_meta(at::TensorList gradients, at::TensorList codes, at::TensorList counts,
                         at::IntArrayRef groups, bool) {
  check_pool_gradients_(gradients, codes, counts, groups);
}

const auto& pool_op() {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("pomona::pool_gradients_", "")
          .typed<void(at::TensorList, at::TensorList, at::TensorList, at::IntArrayRef, bool)>();
  return op;
}

const auto& snap_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("pomona::snap_weights_", "")
                             .typed<void(at::TensorList, at::TensorList, at::TensorList,
                                         at::TensorList, at::IntArrayRef)>();
  return op;
}

void pool_in_place(c10::DispatchKeySet keys, at::TensorList gradients, at::TensorList codes,
                   at::TensorList counts, at::IntArrayRef groups, bool mean) {
  redispatch_in_place(pool_op(), keys, gradients, gradients, codes, counts, groups, mean);
}

void pool_autograd(c10::DispatchKeySet keys, at::TensorList gradients, at::TensorList codes,
                   at::TensorList counts, at::IntArrayRef groups, bool mean) {
  redispatch_unrecorded(pool_op(), keys, "pool_gradients_", "gradients", gradients, gradients,
                        codes, counts, groups, mean);
}

void snap_in_place(c10::DispatchKeySet keys, at::TensorList weights, at::TensorList codes,
                   at::TensorList counts, at::TensorList first, at::IntArrayRef groups) {
  redispatch_in_place(snap_op(), keys, weights, weights, codes, counts, first, groups);
}

void snap_autograd(c10::DispatchKeySet keys, at::TensorList weights, at::TensorList codes,
                   at::TensorList counts, at::TensorList first, at::IntArrayRef groups) {
  redispatch_unrecorded(snap_op(), keys, "snap_weights_", "weights", weights, weights, codes,
                        counts, first, groups);
}

}  // namespace

void check_pool_gradients_(at::TensorList gradients, at::TensorList codes, at::TensorList counts,
                           at::IntArrayRef groups) {
  check_lengths("pool_gradients_", "gradients", gradients.size(),
                {{"codes", codes.size()}, {"counts", counts.size()}, {"groups", groups.size()}});
  for (size_t i = 0; i < gradients.size(); ++i) {
    check_codes("pool_gradients_", "gradients", gradients[i], codes[i], i);
    check_clusters("pool_gradients_", "counts", counts[i], at::kDouble, gradients[i], groups[i], i);
  }
}

void check_snap_weights_(at::TensorList weights, at::TensorList codes, at::TensorList counts,
                         at::TensorList first, at::IntArrayRef groups) {
  check_lengths("snap_weights_", "weights", weights.size(),
                {{"codes", codes.size()},
                 {"counts", counts.size()},
                 {"first", first.size()},
                 {"groups", groups.size()}});
  for (size_t i = 0; i < weights.size(); ++i) {
    check_codes("snap_weights_", "weights", weights[i], codes[i], i);
    check_clusters("snap_weights_", "counts", counts[i], at::kDouble, weights[i], groups[i], i);
    check_clusters("snap_weights_", "first", first[i], at::kLong, weights[i], groups[i], i);
  }
}

void pool_gradients_(at::TensorList gradients, at::TensorList codes, at::TensorList counts,
                     at::IntArrayRef groups, bool mean) {
  if (gradients.empty()) return;  // the dispatcher needs a tensor to know the backend
  const c10::AutoGradMode no_grad(false);
  pool_op().call(gradients, codes, counts, groups, mean);
}

void snap_weights_(at::TensorList weights, at::TensorList codes, at::TensorList counts,
                   at::TensorList first, at::IntArrayRef groups) {
  if (weights.empty()) return;
  const c10::AutoGradMode no_grad(false);
  snap_op().call(weights, codes, counts, first, groups);
}

}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CPU, m) {
  m.impl("pool_gradients_", &pomona::pool_gradients_cpu);
  m.impl("snap_weights_", &pomona::snap_weights_cpu);
}

TORCH_LIBRARY_IMPL(pomona, Meta, m) {
  m.impl("pool_gradients_", &pomona::pool_gradients_meta);
  m.impl("snap_weights_", &pomona::check_snap_weights_);
}

TORCH_LIBRARY_IMPL(pomona, ADInplaceOrView, m) {
  m.impl("pool_gradients_", TORCH_FN(pomona::pool_in_place));
  m.impl("snap_weights_", TORCH_FN(pomona::snap_in_place));
}

TORCH_LIBRARY_IMPL(pomona, Autograd, m) {
  m.impl("pool_gradients_", TORCH_FN(pomona::pool_autograd));
  m.impl("snap_weights_", TORCH_FN(pomona::snap_autograd));
}
