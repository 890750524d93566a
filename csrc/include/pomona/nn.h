#pragma once
// Modules for LibTorch: layers trained through their codebook, and one that runs on packed weights.
// The same names, buffers and outputs as pomona.nn in Python.

#include "pomona/export.h"
#include "pomona/infer.h"
#include "pomona/packing.h"
#include "pomona/quantize.h"

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pomona::nn {

// A layer that holds bytes (codes, packed weights). Module::to(dtype) casts buffers as well as
// parameters; bytes move with the device and stay bytes.
template <class Layer>
class ByteLayer : public torch::nn::Cloneable<Layer> {
 public:
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override {
    keep_bytes([&] { torch::nn::Module::to(device, dtype, non_blocking); }, device);
  }
  void to(torch::Dtype dtype, bool non_blocking = false) override {
    keep_bytes([&] { torch::nn::Module::to(dtype, non_blocking); }, std::nullopt);
  }
  void to(torch::Device device, bool non_blocking = false) override {
    torch::nn::Module::to(device, non_blocking);
  }

 private:
  template <class Move>
  void keep_bytes(const Move& move, std::optional<torch::Device> device) {
    std::vector<std::pair<at::Tensor, at::Tensor>> kept;  // a buffer, its bytes
    for (at::Tensor& buffer : this->buffers(/*recurse=*/false)) {
      if (buffer.scalar_type() == at::kByte) kept.emplace_back(buffer, buffer.detach());
    }
    move();
    for (auto& [buffer, bytes] : kept) buffer.set_data(device ? bytes.to(*device) : bytes);
  }
};

// What the compact layers have in common: their weight is lookup(codebook, codes) (thesis §4.2).
// `codebook` [k] is the Parameter; `codes` is a buffer of packed codes, flat. A layer with pruned
// weights has code 0 = 0.0, which no entry of `codebook` holds and no step can move.
template <class Layer>
class POMONA_API SharedLayer : public ByteLayer<Layer> {
 public:
  void reset() override;  // what clone() needs: registers copies
  // Checks what it read. Throws InvalidArgument for codes outside the codebook or of another shape.
  void load(torch::serialize::InputArchive& archive) override;
  // As the dense layer has it, differentiable in `codebook`; in the codebook's dtype (or what
  // autocast says) unless `dtype` says another.
  at::Tensor weight(std::optional<at::ScalarType> dtype = std::nullopt) const;

  at::Tensor codebook;  // Parameter [k], ascending when made
  at::Tensor codes;     // uint8 [packed_size(weights, bits)]
  int64_t bits;
  bool has_zero;

 protected:
  // weight: floating-point, finite, at most 256 distinct values (zero included); `shape` says its
  // dimensions in words. Throws InvalidArgument, in the name of `layer`, otherwise.
  SharedLayer(const char* layer, const at::Tensor& weight, int64_t dims, const char* shape);
  void register_bias(at::Tensor& bias);  // a copy; undefined: none
  void print_codes(std::ostream& stream) const;

 private:
  const char* layer_;
  std::vector<int64_t> shape_;
};

// y = x W^T + b. Throws InvalidArgument for a weight that is not floating-point [out, in], holds
// NaN or Inf, or has more than 256 distinct values (zero included), with the count.
class POMONA_API SharedLinearImpl : public SharedLayer<SharedLinearImpl> {
 public:
  // weight [out, in], bias [out] or undefined; both are copied.
  SharedLinearImpl(const at::Tensor& weight, const at::Tensor& bias);
  explicit SharedLinearImpl(const torch::nn::Linear& linear)
      : SharedLinearImpl(linear->weight, linear->bias) {}
  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& input);

  at::Tensor bias;  // Parameter [out], or undefined
  int64_t in_features, out_features;
};
TORCH_MODULE(SharedLinear);

// torch::nn::Conv2d, with all its options. Throws InvalidArgument as SharedLinear, and for options
// of another weight, or padding kSame with a stride.
class POMONA_API SharedConv2dImpl : public SharedLayer<SharedConv2dImpl> {
 public:
  // weight [out, in / groups, height, width], bias [out] or undefined; both are copied.
  // options.bias() becomes whether there is one.
  SharedConv2dImpl(const at::Tensor& weight, const at::Tensor& bias,
                   torch::nn::Conv2dOptions options);
  explicit SharedConv2dImpl(const torch::nn::Conv2d& conv);
  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& input);  // [N, in, H, W] or [in, H, W]

  at::Tensor bias;  // Parameter [out], or undefined
  torch::nn::Conv2dOptions options;
};
TORCH_MODULE(SharedConv2d);

// torch::nn::Embedding. Only the rows that are asked for are looked up, where a row is whole bytes
// (embedding_dim * bits divisible by 8); else the whole weight. Throws InvalidArgument as
// SharedLinear; for padding_idx that is no row; and for an Embedding with max_norm,
// scale_grad_by_freq or sparse.
class POMONA_API SharedEmbeddingImpl : public SharedLayer<SharedEmbeddingImpl> {
 public:
  // weight [num_embeddings, embedding_dim], copied. No gradient flows through row padding_idx;
  // negative ones count from the end.
  explicit SharedEmbeddingImpl(const at::Tensor& weight,
                               std::optional<int64_t> padding_idx = std::nullopt);
  explicit SharedEmbeddingImpl(const torch::nn::Embedding& embedding);
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& input);  // integers [...] -> [..., embedding_dim]

  int64_t num_embeddings, embedding_dim;
  std::optional<int64_t> padding_idx;
};
TORCH_MODULE(SharedEmbedding);

// Replaces each Linear, Conv2d and Embedding of a Sequential whose weight `sharer` has shared by
// its Shared... twin of the same outputs, device, dtype and mode: then there are k floats to train,
// reduce and store. Returns the names of the replaced layers. Source: thesis §4.2.
//
// Only layers of exactly these types are replaced (and no Embedding with max_norm,
// scale_grad_by_freq or sparse), and none whose weight a module that stays holds too; other shared
// parameters stay as they are. Layers of one weight share one `codebook` and the memory of their
// `codes`; a `bias` is the same Parameter as before. The replaced parameters are gone: make a new
// optimizer over model->parameters(), and release() the sharer or make one for what is left.
// to_dense_ is the way back. (Only Sequential: LibTorch's replace_module does not change what
// another module's forward calls.)
//
// model: the one that was shared or a copy of it. Throws InvalidArgument, naming the layer: before
// sharer.assign(), for a layer of several codebooks (Share::group), or a weight that is not in its
// codebook. Then nothing is replaced.
POMONA_API std::vector<std::string> to_layers_(torch::nn::Sequential& model, const Sharer& sharer);

// Replaces each SharedLinear, SharedConv2d and SharedEmbedding of a Sequential by its dense twin of
// the same outputs, device, dtype and mode, and returns their names. Layers of one codebook and
// equal codes are tied again by one `weight`; a `bias` is the same Parameter as before. Subclasses
// stay as they are. The codebooks are gone: make a new optimizer over model->parameters(). Source:
// thesis §4.2.
POMONA_API std::vector<std::string> to_dense_(torch::nn::Sequential& model);

// y = x W^T + b on packed weights; not trainable. The product is float32, or as the precision of
// the options says; input of another floating dtype is widened and the output has the input's
// dtype.
class POMONA_API PackedLinearImpl : public ByteLayer<PackedLinearImpl> {
 public:
  // weight [out, in] float32, float16 or bfloat16, finite; bias [out] or undefined. Copies both.
  // Throws InvalidArgument otherwise.
  PackedLinearImpl(const at::Tensor& weight, const at::Tensor& bias,
                   const PackOptions& packing = {}, bool relu = false);
  explicit PackedLinearImpl(const torch::nn::Linear& linear, const PackOptions& packing = {})
      : PackedLinearImpl(linear->weight, linear->bias, packing) {}
  // Of a matrix that is packed already, on the CPU.
  PackedLinearImpl(const Packed& matrix, const at::Tensor& bias, bool relu = false);
  // Of the bytes and the bias of another, not copied. Throws InvalidArgument for bytes that pack()
  // did not make.
  static std::shared_ptr<PackedLinearImpl> from_packed(const at::Tensor& packed,
                                                       const at::Tensor& bias = {},
                                                       bool relu = false);
  void reset() override;  // what clone() needs: registers copies of the buffers
  // Checks what it read. Throws InvalidArgument for bytes that pack() did not make or another
  // shape.
  void load(torch::serialize::InputArchive& archive) override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& input);
  at::Tensor weight() const;  // the dense matrix [out, in], float32, on the device of `packed`
  // Packs another weight of the same shape into this layer. Throws as the constructor.
  void pack_weight_(const at::Tensor& weight);

  at::Tensor packed;  // uint8 buffer
  at::Tensor bias;    // buffer [out], or undefined
  int64_t in_features, out_features;
  PackOptions options;
  bool has_relu;

 private:
  PackedLinearImpl(const Packed& facts, const at::Tensor& packed, const at::Tensor& bias,
                   bool relu);
};
TORCH_MODULE(PackedLinear);

// torch::nn::Embedding on packed weights, for inference: no gradient reaches them, so padding_idx
// has nothing to do. The rows that are asked for are unpacked, in the dtype of the weight; the
// dense table never is. csr16 or lut, whichever is smaller; on CUDA csr16.
class POMONA_API PackedEmbeddingImpl : public ByteLayer<PackedEmbeddingImpl> {
 public:
  // weight [num_embeddings, embedding_dim] float32, float16 or bfloat16, finite. Throws
  // InvalidArgument otherwise, and for an Embedding with max_norm, which changes its rows.
  explicit PackedEmbeddingImpl(const at::Tensor& weight);
  explicit PackedEmbeddingImpl(const torch::nn::Embedding& embedding);
  // Of a table that is packed already, on the CPU. Throws InvalidArgument for a layout whose rows
  // cannot be looked up.
  explicit PackedEmbeddingImpl(const Packed& table, at::ScalarType dtype = at::kFloat);
  // Of the bytes of another, not copied. Throws as that, and for bytes that pack() did not make.
  static std::shared_ptr<PackedEmbeddingImpl> from_packed(const at::Tensor& packed,
                                                          at::ScalarType dtype = at::kFloat);
  void reset() override;  // what clone() needs: registers a copy of the buffer
  // Checks what it read. Throws InvalidArgument as PackedLinear, and for a layout whose rows cannot
  // be looked up.
  void load(torch::serialize::InputArchive& archive) override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& input);  // int64 or int32 [...] -> [..., embedding_dim]
  at::Tensor weight() const;                    // the dense table, of `dtype`
  // Packs another table of the same shape into this layer. Throws as the constructor.
  void pack_weight_(const at::Tensor& weight);

  at::Tensor packed;  // uint8 buffer
  int64_t num_embeddings, embedding_dim;
  at::ScalarType dtype;  // of what forward() gives

 private:
  PackedEmbeddingImpl(const Packed& facts, const at::Tensor& packed, at::ScalarType dtype);
};
TORCH_MODULE(PackedEmbedding);

// What pack_ decided for one layer; times are the median of interleaved runs at `example`'s shape,
// of the fastest layout that keeps the outputs. A layer of several matrices has the sum of their
// bytes and the options of the first.
struct PackChoice {
  std::string name;
  double dense_us = 0;
  double packed_us = 0;
  bool is_packed = false;
  PackOptions options{};
  int64_t bytes = 0;              // packed
  double error = 0;               // the largest change of an output beside the largest output
  std::vector<Layout> layouts{};  // of its matrices, each once, in the order of the enum
};

struct PackSettings {
  // One that this processor has no instructions for (fast_precisions()) is done in float32.
  Precision precision = Precision::kFloat32;
  // How much the outputs of a layer may change, beside its largest; 0: 1e-4 for kFloat32 and
  // kFixed16, 2e-2 for kBFloat16, 0.1 for kInt8.
  double verify = 0;
};

// Replaces each Linear, LSTM, GRU and MultiheadAttention of a Sequential by its Packed... twin
// (packed_rnn.h, packed_attention.h) where that is faster on this machine for inputs like
// `example`, in the fastest layout, and says what it measured, a choice for each layer that could
// be packed. Attention with bias_kv or zero_attn could not. The layers run once, one after the
// other, in eval mode and without gradients; the mode is restored. (Only Sequential: LibTorch's
// replace_module does not change what another module's forward calls.) Throws InvalidArgument,
// naming the layer, when one that could be packed holds NaN or Inf, and for a negative `verify`;
// then the model is as it was.
POMONA_API std::vector<PackChoice> pack_(torch::nn::Sequential& model, const at::Tensor& example,
                                         const PackSettings& settings = {});
// The same for a model whose first layer takes several tensors, as attention does: 1 to 3.
POMONA_API std::vector<PackChoice> pack_(torch::nn::Sequential& model,
                                         const std::vector<at::Tensor>& example,
                                         const PackSettings& settings = {});

}  // namespace pomona::nn
