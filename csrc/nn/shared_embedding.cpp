#include "pomona/error.h"

#include "base/text.h"
#include "nn/shared_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/where.h>

namespace pomona::nn {

template class SharedLayer<SharedEmbeddingImpl>;

namespace {

std::optional<int64_t> checked_row(std::optional<int64_t> padding_idx, int64_t rows) {
  if (!padding_idx) return std::nullopt;
  if (*padding_idx < -rows || *padding_idx >= rows) {
    throw InvalidArgument(text("SharedEmbedding: expected `padding_idx` in ", -rows, "..", rows - 1,
                               ", got ", *padding_idx, "."));
  }
  return *padding_idx < 0 ? *padding_idx + rows : *padding_idx;
}

const at::Tensor& checked_weight(const torch::nn::Embedding& embedding) {
  const auto refuse = [](const char* option, const char* why) {
    throw InvalidArgument(
        text("SharedEmbedding: expected `embedding` without `", option, "`, got one. ", why));
  };
  const auto& options = embedding->options;
  if (options.max_norm()) {
    refuse("max_norm", "It would change rows, and with them the codebook of all.");
  }
  if (options.scale_grad_by_freq()) {
    refuse("scale_grad_by_freq", "The gradient is that of a codebook.");
  }
  if (options.sparse()) refuse("sparse", "The gradient of a codebook is dense.");
  return embedding->weight;
}

}  // namespace

SharedEmbeddingImpl::SharedEmbeddingImpl(const at::Tensor& weight, std::optional<int64_t> padding)
    : SharedLayer("SharedEmbedding", weight, 2, "[num_embeddings, embedding_dim]"),
      num_embeddings(weight.size(0)),
      embedding_dim(weight.size(1)),
      padding_idx(checked_row(padding, weight.size(0))) {
  reset();
}

SharedEmbeddingImpl::SharedEmbeddingImpl(const torch::nn::Embedding& embedding)
    : SharedEmbeddingImpl(checked_weight(embedding), embedding->options.padding_idx()) {}

void SharedEmbeddingImpl::pretty_print(std::ostream& stream) const {
  stream << "pomona::nn::SharedEmbedding(num_embeddings=" << num_embeddings
         << ", embedding_dim=" << embedding_dim
         << ", padding_idx=" << (padding_idx ? std::to_string(*padding_idx) : "None") << ", ";
  print_codes(stream);
  stream << ")";
}

at::Tensor SharedEmbeddingImpl::forward(const at::Tensor& input) {
  SharedWeight shared = {codebook, codes, bits, has_zero};
  const at::ScalarType dtype = codebook.scalar_type();  // as torch::nn::Embedding under autocast
  const int64_t row_bits = embedding_dim * bits;
  if (row_bits % 8 != 0) {
    const at::Tensor whole = lookup_shared(shared, {num_embeddings, embedding_dim}, dtype);
    return at::embedding(whole, input, padding_idx.value_or(-1));
  }
  shared.codes = at::embedding(codes.reshape({num_embeddings, row_bits / 8}), input);
  std::vector<int64_t> shape = input.sizes().vec();
  shape.push_back(embedding_dim);
  const at::Tensor output = lookup_shared(shared, shape, dtype);
  if (!padding_idx) return output;
  return at::where(input.eq(*padding_idx).unsqueeze(-1), output.detach(), output);
}

}  // namespace pomona::nn
