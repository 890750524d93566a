#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"

#include "base/text.h"

#include <torch/serialize/input-archive.h>

#include <ostream>

namespace pomona::nn {
namespace {

const at::Tensor& weight_of(const torch::nn::Embedding& embedding) {
  if (embedding->options.max_norm()) {
    throw InvalidArgument(
        "PackedEmbedding: expected `embedding` without `max_norm`, got one. It would change rows.");
  }
  return embedding->weight;
}

}  // namespace

PackedEmbeddingImpl::PackedEmbeddingImpl(const at::Tensor& table) : dtype(table.scalar_type()) {
  const Weight weight = to_weight("weight", table);
  const auto matrix = table.is_cpu() ? pack_rows(weight) : pack(weight);
  num_embeddings = matrix.rows;
  embedding_dim = matrix.cols;
  packed = to_tensor(matrix).to(table.device());
  reset();
}

PackedEmbeddingImpl::PackedEmbeddingImpl(const torch::nn::Embedding& embedding)
    : PackedEmbeddingImpl(weight_of(embedding)) {}

void PackedEmbeddingImpl::reset() {
  packed = register_buffer("packed", packed.clone());
}

void PackedEmbeddingImpl::load(torch::serialize::InputArchive& archive) {
  torch::nn::Module::load(archive);
  const auto matrix = from_tensor(packed);
  if (matrix.rows != num_embeddings || matrix.cols != embedding_dim) {
    throw InvalidArgument(text("PackedEmbedding: expected `packed` of shape [", num_embeddings,
                               ", ", embedding_dim, "], got [", matrix.rows, ", ", matrix.cols,
                               "]."));
  }
}

void PackedEmbeddingImpl::pretty_print(std::ostream& stream) const {
  stream << "pomona::nn::PackedEmbedding(num_embeddings=" << num_embeddings
         << ", embedding_dim=" << embedding_dim << ")";
}

at::Tensor PackedEmbeddingImpl::forward(const at::Tensor& input) {
  return packed_embedding(input, packed, num_embeddings, embedding_dim).to(dtype);
}

at::Tensor PackedEmbeddingImpl::weight() const {
  return packed_weight(packed, num_embeddings, embedding_dim).to(dtype);
}

}  // namespace pomona::nn
