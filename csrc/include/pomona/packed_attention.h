#pragma once
// Attention on packed projections, for LibTorch. The same name, buffers and outputs as pomona.nn in
// Python.

#include "pomona/export.h"
#include "pomona/nn.h"
#include "pomona/projections.h"

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/pimpl.h>

#include <tuple>

namespace pomona::nn {

// torch::nn::MultiheadAttention on packed weights, for inference: the four projections are packed;
// dropout is left out. What is given beyond LibTorch's own is what Python's takes: no batch, keys
// and values of two sizes, a mask for each head. Throws InvalidArgument for attention
// with add_bias_kv or add_zero_attn, NaN or Inf, a dtype or a layout that cannot hold a weight.
class POMONA_API PackedMultiheadAttentionImpl
    : public torch::nn::Cloneable<PackedMultiheadAttentionImpl> {
 public:
  // The weights are copied, on their device. `batch_first` is Python's option: LibTorch has none.
  explicit PackedMultiheadAttentionImpl(const torch::nn::MultiheadAttention& attention,
                                        const Packing& packing = {}, bool batch_first = false);
  // As `attention`, with the weights of another place.
  PackedMultiheadAttentionImpl(const torch::nn::MultiheadAttention& attention,
                               const Projections& projections, bool batch_first = false);
  void reset() override;  // what clone() needs: registers copies
  void pretty_print(std::ostream& stream) const override;
  // query [steps, batch, embed_dim], key [keys, batch, kdim], value [keys, batch, vdim] (the batch
  // first with batch_first), or all without a batch. key_padding_mask [batch, keys] and attn_mask
  // [steps, keys] or [batch * num_heads, steps, keys]: true means "not this one" (LibTorch's own
  // adds such an attn_mask as ones), numbers are added to the scores. Returns the output, as the
  // query lies, and the weights [batch, steps, keys] (of each head [batch, num_heads, steps, keys]
  // unless averaged), undefined unless needed. Throws InvalidArgument for other shapes, and for
  // is_causal (a hint, as in Python) without attn_mask.
  std::tuple<at::Tensor, at::Tensor> forward(
      const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
      const at::Tensor& key_padding_mask = {}, bool need_weights = true,
      const at::Tensor& attn_mask = {}, bool average_attn_weights = true, bool is_causal = false);

  PackedLinear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, out_proj{nullptr};
  int64_t embed_dim, num_heads, kdim, vdim;
  bool batch_first;

 protected:
  FORWARD_HAS_DEFAULT_ARGS({3, torch::nn::AnyValue(at::Tensor())}, {4, torch::nn::AnyValue(true)},
                           {5, torch::nn::AnyValue(at::Tensor())}, {6, torch::nn::AnyValue(true)},
                           {7, torch::nn::AnyValue(false)})

 private:
  void check_input(const char* name, const at::Tensor& input, int64_t size) const;
  at::Tensor heads(const at::Tensor& projected) const;
  at::Tensor mask(const at::Tensor& attn_mask, const at::Tensor& key_padding_mask,
                  at::ScalarType dtype) const;
};
TORCH_MODULE(PackedMultiheadAttention);

}  // namespace pomona::nn
