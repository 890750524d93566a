// Rows of a packed matrix: an embedding that never has its dense table in memory.
#include "pomona/infer.h"

#include "infer/packed_linear.h"

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

namespace pomona {
namespace {

at::Tensor packed_embedding_cpu(const at::Tensor& indices, const at::Tensor& packed,
                                int64_t num_embeddings, int64_t embedding_dim) {
  check_packed_embedding(indices, packed, num_embeddings, embedding_dim);
  const at::Tensor bytes = aligned_bytes(packed);
  const auto matrix = view_of("packed_embedding", "[num_embeddings, embedding_dim]", bytes,
                              num_embeddings, embedding_dim);
  TORCH_CHECK_VALUE(matrix.finds_rows(),
                    "packed_embedding: expected `packed` of layout csr16 or lut, got ",
                    layout_name(matrix.layout()), ", which cannot find a row.");
  const at::Tensor wanted = indices.to(at::kLong).contiguous();
  const int64_t* const rows = wanted.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < wanted.numel(); ++i) {
    TORCH_CHECK_INDEX(rows[i] >= 0 && rows[i] < num_embeddings,
                      "packed_embedding: expected `indices` in 0..", num_embeddings - 1, ", got ",
                      rows[i], ".");
  }
  auto sizes = indices.sizes().vec();
  sizes.push_back(embedding_dim);
  const at::Tensor output = at::zeros(sizes, packed.options().dtype(at::kFloat));
  auto* const values = output.mutable_data_ptr<float>();
  constexpr int64_t kElementsPerThread = 32'768;
  const int64_t grain = kElementsPerThread / std::max<int64_t>(embedding_dim, 1) + 1;
  at::parallel_for(0, wanted.numel(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) matrix.unpack_row(rows[i], values + i * embedding_dim);
  });
  return output;
}

at::Tensor packed_embedding_meta(const at::Tensor& indices, const at::Tensor& packed,
                                 c10::SymInt num_embeddings, c10::SymInt embedding_dim) {
  check_packed_embedding(indices, packed, num_embeddings, embedding_dim);
  auto sizes = indices.sym_sizes().vec();
  sizes.push_back(std::move(embedding_dim));
  return at::zeros_symint(sizes, packed.options().dtype(at::kFloat));
}

}  // namespace

at::Tensor packed_embedding(const at::Tensor& indices, const at::Tensor& packed,
                            int64_t num_embeddings, int64_t embedding_dim) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("pomona::packed_embedding", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymInt, c10::SymInt)>();
  return op.call(indices, packed, num_embeddings, embedding_dim);
}

}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CPU, m) {
  m.impl("packed_embedding", &pomona::packed_embedding_cpu);
}

TORCH_LIBRARY_IMPL(pomona, Meta, m) {
  m.impl("packed_embedding", &pomona::packed_embedding_meta);
}
