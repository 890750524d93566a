#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"

#include "base/text.h"
#include "nn/packed_layer.h"

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

// Others than the CPU know csr16 only.
Packed packed_rows(const at::Tensor& table, bool is_on_cpu) {
  const Weight weight = to_weight("weight", table);
  return is_on_cpu ? pack_rows(weight) : pack(weight);
}

void check_has_rows(Layout layout) {
  if (layout == Layout::kCsr16 || layout == Layout::kLut) return;
  throw InvalidArgument(text("PackedEmbedding: expected `packed` of layout csr16 or lut, got ",
                             layout_name(layout), "."));
}

}  // namespace

PackedEmbeddingImpl::PackedEmbeddingImpl(const Packed& facts, const at::Tensor& bytes,
                                         at::ScalarType output)
    : num_embeddings(facts.rows), embedding_dim(facts.cols), dtype(output) {
  check_has_rows(facts.layout);
  packed = register_buffer("packed", bytes);
}

PackedEmbeddingImpl::PackedEmbeddingImpl(const Packed& table, at::ScalarType output)
    : PackedEmbeddingImpl(table, to_tensor(table), output) {}

std::shared_ptr<PackedEmbeddingImpl> PackedEmbeddingImpl::from_packed(const at::Tensor& packed,
                                                                      at::ScalarType output) {
  return std::shared_ptr<PackedEmbeddingImpl>(
      new PackedEmbeddingImpl(facts_of(packed), packed, output));
}

PackedEmbeddingImpl::PackedEmbeddingImpl(const at::Tensor& table)
    : PackedEmbeddingImpl(packed_rows(table, table.is_cpu()), table.scalar_type()) {
  to(table.device());
}

PackedEmbeddingImpl::PackedEmbeddingImpl(const torch::nn::Embedding& embedding)
    : PackedEmbeddingImpl(weight_of(embedding)) {}

void PackedEmbeddingImpl::reset() {
  packed = register_buffer("packed", packed.clone());
}

void PackedEmbeddingImpl::load(torch::serialize::InputArchive& archive) {
  load_checked(*this, packed, archive, [&] {
    check_has_rows(checked_matrix("PackedEmbedding", packed, num_embeddings, embedding_dim).layout);
  });
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

void PackedEmbeddingImpl::pack_weight_(const at::Tensor& weight) {
  const auto matrix = packed_rows(weight, packed.is_cpu());
  check_shape("PackedEmbedding", "weight", matrix, num_embeddings, embedding_dim);
  packed.set_data(to_tensor(matrix).to(packed.device()));
}

}  // namespace pomona::nn
