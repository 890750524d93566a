#pragma once
// What the compact layers have in common. Each layer's .cpp includes this file and instantiates
// SharedLayer once.

#include "pomona/nn.h"

#include <torch/serialize/input-archive.h>

#include <optional>
#include <ostream>
#include <string>
#include <vector>

namespace pomona::nn {

struct SharedWeight {
  at::Tensor codebook;  // [k]: the distinct values but zero, ascending
  at::Tensor codes;     // uint8, packed; 0 is zero when has_zero
  int64_t bits;
  bool has_zero;
};

// An empty weight has no values: it counts as zeros, so that the codebook is never empty. Throws as
// the constructor of SharedLayer.
SharedWeight take_codebook(const char* layer, const at::Tensor& weight, int64_t dims,
                           const char* shape);
// Integers of any shape -> their codes, packed in `bits` bits, row-major, on their device.
at::Tensor packed_codes(const at::Tensor& indices, int64_t bits);
// Throws InvalidArgument, in the name of `layer`, unless `count` codes are of these bits and lie in
// the codebook.
void check_shared(const char* layer, const SharedWeight& shared, int64_t count);
// Codes -> weight `shape`, of `dtype` or what autocast says.
at::Tensor lookup_shared(const SharedWeight& shared, at::IntArrayRef shape,
                         std::optional<at::ScalarType> dtype = std::nullopt);

template <class Layer>
SharedLayer<Layer>::SharedLayer(const char* layer, const at::Tensor& weight, int64_t dims,
                                const char* shape)
    : layer_(layer), shape_(weight.sizes().vec()) {
  SharedWeight shared = take_codebook(layer, weight, dims, shape);
  codebook = std::move(shared.codebook);
  codes = std::move(shared.codes);
  bits = shared.bits;
  has_zero = shared.has_zero;
}

template <class Layer>
void SharedLayer<Layer>::reset() {
  codebook = this->register_parameter("codebook", codebook.detach().clone());
  codes = this->register_buffer("codes", codes.clone());
}

template <class Layer>
void SharedLayer<Layer>::register_bias(at::Tensor& bias) {
  if (bias.defined()) bias = bias.detach().clone();
  bias = this->register_parameter("bias", bias, bias.defined());
}

template <class Layer>
void SharedLayer<Layer>::load(torch::serialize::InputArchive& archive) {
  torch::nn::Module::load(archive);
  check_shared(layer_, {codebook, codes, bits, has_zero}, c10::multiply_integers(shape_));
}

template <class Layer>
at::Tensor SharedLayer<Layer>::weight(std::optional<at::ScalarType> dtype) const {
  return lookup_shared({codebook, codes, bits, has_zero}, shape_, dtype);
}

template <class Layer>
void SharedLayer<Layer>::print_codes(std::ostream& stream) const {
  stream << "centroids=" << codebook.numel() << ", has_zero=" << (has_zero ? "true" : "false")
         << ", bits=" << bits;
}

}  // namespace pomona::nn
