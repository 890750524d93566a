// packed_linear, packed_weight and packed_embedding on CUDA: checks, guard, stream, launch.
#include "base/stream_launcher.cuh"
#include "infer/csr16_kernel.cuh"
#include "infer/packed_linear.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/accumulate.h>
#include <torch/library.h>

namespace pomona {
namespace {

Csr16Buffer buffer_of(const at::Tensor& bytes, int64_t rows, int64_t cols) {
  return {.bytes = static_cast<const std::byte*>(bytes.const_data_ptr()),
          .size = bytes.numel(),
          .rows = rows,
          .cols = cols,
          .panels = csr16_panels(cols)};
}

at::Tensor packed_linear_cuda(const at::Tensor& input, const at::Tensor& packed,
                              const std::optional<at::Tensor>& bias, int64_t out_features,
                              bool relu) {
  check_packed_linear(input, packed, bias, out_features);
  const c10::cuda::CUDAGuard guard(input.device());
  const at::Tensor bytes = aligned_bytes(packed), x = input.contiguous();
  const at::Tensor b = bias ? bias->contiguous() : at::Tensor();
  const auto leading = input.sizes().slice(0, static_cast<size_t>(input.dim() - 1));
  auto sizes = leading.vec();
  sizes.push_back(out_features);
  const at::Tensor y = at::empty(sizes, input.options());
  launch_csr16_multiply(on_current_stream(),
                        Csr16Product{.weight = buffer_of(bytes, out_features, input.size(-1)),
                                     .x = x.const_data_ptr<float>(),
                                     .batch = c10::multiply_integers(leading),
                                     .bias = b.defined() ? b.const_data_ptr<float>() : nullptr,
                                     .y = y.mutable_data_ptr<float>()});
  return relu ? at::relu(y) : y;
}

at::Tensor packed_weight_cuda(const at::Tensor& packed, int64_t out_features, int64_t in_features) {
  check_packed_weight(packed, out_features, in_features);
  const c10::cuda::CUDAGuard guard(packed.device());
  const at::Tensor bytes = aligned_bytes(packed);
  const at::Tensor weight =
      at::zeros({out_features, in_features}, packed.options().dtype(at::kFloat));
  launch_csr16_unpack(on_current_stream(), buffer_of(bytes, out_features, in_features),
                      weight.mutable_data_ptr<float>());
  return weight;
}

// An index that is no row gives a row of NaN: the host does not wait for the device to look.
at::Tensor packed_embedding_cuda(const at::Tensor& indices, const at::Tensor& packed,
                                 int64_t num_embeddings, int64_t embedding_dim) {
  check_packed_embedding(indices, packed, num_embeddings, embedding_dim);
  const c10::cuda::CUDAGuard guard(packed.device());
  const at::Tensor bytes = aligned_bytes(packed), rows = indices.to(at::kLong).contiguous();
  auto sizes = indices.sizes().vec();
  sizes.push_back(embedding_dim);
  const at::Tensor output = at::zeros(sizes, packed.options().dtype(at::kFloat));
  launch_csr16_gather(on_current_stream(), buffer_of(bytes, num_embeddings, embedding_dim),
                      rows.const_data_ptr<int64_t>(), rows.numel(),
                      output.mutable_data_ptr<float>());
  return output;
}

}  // namespace
}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CUDA, m) {
  m.impl("packed_linear", &pomona::packed_linear_cuda);
  m.impl("packed_weight", &pomona::packed_weight_cuda);
  m.impl("packed_embedding", &pomona::packed_embedding_cuda);
}
