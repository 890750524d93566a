// first_not_finite, select_histogram and select_mask on CUDA: checks, guard, stream, launch.
#include "base/stream_launcher.cuh"
#include "prune/select.h"
#include "prune/select_kernel.cuh"
#include "prune/select_kernel.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

namespace pomona {
namespace {

// As CUDA's atomics take them.
unsigned long long* counters(const at::Tensor& tensor) {
  return static_cast<unsigned long long*>(tensor.mutable_data_ptr());
}

template <class Key>
LiveScores<Key> live_scores(const Key* bits, const at::Tensor& words, int64_t size, bool by_value) {
  return {bits, static_cast<const uint64_t*>(words.const_data_ptr()), size, by_value};
}

at::Tensor first_not_finite_cuda(const at::Tensor& scores) {
  check_first_not_finite(scores);
  const c10::cuda::CUDAGuard guard(scores.device());
  const at::Tensor rows = scores.contiguous();
  const at::Tensor first = at::full({}, -1, rows.options().dtype(at::kLong));  // all ones
  const int64_t infinity = infinity_key(*selection_dtype(rows));
  with_score_bits(rows, [&](const auto* bits) {
    using Key = std::remove_cv_t<std::remove_pointer_t<decltype(bits)>>;
    launch_first_not_finite(on_current_stream(), bits, rows.numel(), static_cast<Key>(infinity),
                            counters(first));
  });
  return first;
}

at::Tensor select_histogram_cuda(const at::Tensor& scores, const at::Tensor& words, int64_t shift,
                                 int64_t prefix, bool by_value) {
  check_select_histogram(scores, words, shift, prefix);
  const c10::cuda::CUDAGuard guard(scores.device());
  const at::Tensor rows = scores.contiguous(), live = words.contiguous();
  const at::Tensor counts = at::zeros({kDigitValues}, words.options());
  const KeyDigit digit{static_cast<int>(shift), static_cast<uint64_t>(prefix)};
  with_score_bits(rows, [&](const auto* bits) {
    launch_select_histogram(on_current_stream(), live_scores(bits, live, rows.numel(), by_value),
                            digit, counters(counts));
  });
  return counts;
}

at::Tensor select_mask_cuda(const at::Tensor& scores, const at::Tensor& words, int64_t cut,
                            int64_t ties, bool by_value) {
  check_select_mask(scores, words, cut, ties);
  const c10::cuda::CUDAGuard guard(scores.device());
  const at::Tensor rows = scores.contiguous(), live = words.contiguous();
  const at::Tensor out = at::empty_like(live);
  const SelectGrid grid = select_grid(rows.numel());
  const at::Tensor ties_of_warp = at::empty({grid.warps()}, words.options());
  with_score_bits(rows, [&](const auto* bits) {
    using Key = std::remove_cv_t<std::remove_pointer_t<decltype(bits)>>;
    launch_select_mask(on_current_stream(), grid, live_scores(bits, live, rows.numel(), by_value),
                       static_cast<Key>(cut), ties, counters(ties_of_warp),
                       static_cast<uint64_t*>(out.mutable_data_ptr()));
  });
  return out;
}

}  // namespace
}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CUDA, m) {
  m.impl("first_not_finite", &pomona::first_not_finite_cuda);
  m.impl("select_histogram", &pomona::select_histogram_cuda);
  m.impl("select_mask", &pomona::select_mask_cuda);
}
