#include "pomona/error.h"
#include "pomona/nn.h"
#include "pomona/packed_bits.h"

#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique2.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/where.h>
#include <torch/serialize/input-archive.h>

#include <algorithm>
#include <ostream>

namespace pomona::nn {
namespace {

constexpr int64_t kMaxValues = 256;

struct Shared {
  at::Tensor values;   // the distinct values but zero, ascending
  at::Tensor indices;  // uint8 [out * in]: 0 is zero when has_zero
  bool has_zero;
};

void check_weight(const at::Tensor& weight) {
  if (!weight.is_floating_point() || weight.dim() != 2) {
    throw InvalidArgument(
        text("SharedLinear: expected `weight` to be floating-point [out, in], got ",
             weight.scalar_type(), " ", weight.sizes(), "."));
  }
  if (!at::isfinite(weight).all().item<bool>()) {
    throw InvalidArgument("SharedLinear: expected `weight` to be finite, got NaN or Inf.");
  }
}

// An empty weight has no values: it counts as zeros, so that the codebook is never empty.
Shared distinct_values(const at::Tensor& weight) {
  auto [values, indices, counts] =
      at::_unique2(weight.detach().contiguous().flatten(), /*sorted=*/true,
                   /*return_inverse=*/true);
  const int64_t count = values.numel();
  if (count > kMaxValues) {
    throw InvalidArgument(text("SharedLinear: expected `weight` to have at most 256 distinct ",
                               "values, got ", count, ". Share it first (pomona::Sharer)."));
  }
  const bool has_zero = count == 0 || values.eq(0).any().item<bool>();
  if (has_zero && count > 0) {
    // zero stands amid the ascending values; its code is 0 and those before it move up by one
    const int64_t zero = values.lt(0).sum().item<int64_t>();
    indices = at::where(indices.eq(zero), 0, at::where(indices.lt(zero), indices + 1, indices));
    values = values.masked_select(values.ne(0));
  }
  return {values, indices.to(at::kByte), has_zero};
}

}  // namespace

SharedLinearImpl::SharedLinearImpl(const at::Tensor& weight, const at::Tensor& bias_values)
    : in_features(weight.dim() == 2 ? weight.size(1) : 0),
      out_features(weight.dim() == 2 ? weight.size(0) : 0) {
  check_weight(weight);
  const Shared shared = distinct_values(weight);
  has_zero = shared.has_zero;
  codebook = shared.values;
  bits = storage_bits(codebook.numel() + (has_zero ? 1 : 0));
  const at::Tensor indices = shared.indices.cpu().contiguous();
  const auto packed =
      pack_bits({indices.const_data_ptr<uint8_t>(), static_cast<size_t>(indices.numel())},
                static_cast<int>(bits));
  codes = at::empty({static_cast<int64_t>(packed.size())}, at::kByte);
  std::copy(packed.begin(), packed.end(), codes.mutable_data_ptr<uint8_t>());
  codes = codes.to(weight.device());
  bias = bias_values;
  reset();
}

void SharedLinearImpl::reset() {
  codebook = register_parameter("codebook", codebook.detach().clone());
  codes = register_buffer("codes", codes.clone());
  if (bias.defined()) bias = bias.detach().clone();
  bias = register_parameter("bias", bias, bias.defined());
}

void SharedLinearImpl::load(torch::serialize::InputArchive& archive) {
  Module::load(archive);
  const int64_t entries = codebook.numel() + (has_zero ? 1 : 0);
  const int64_t count = in_features * out_features;
  if (codebook.dim() != 1 || entries < 1 || entries > int64_t{1} << bits) {
    throw InvalidArgument(text("SharedLinear: expected `codebook` [k] for codes of ", bits,
                               " bits, got ", codebook.sizes(), "."));
  }
  const at::Tensor bytes = codes.cpu().contiguous();
  if (bytes.scalar_type() != at::kByte ||
      bytes.sizes() != at::IntArrayRef{packed_size(count, static_cast<int>(bits))}) {
    throw InvalidArgument(text("SharedLinear: expected `codes` to be ", count, " codes of ", bits,
                               " bits, got ", bytes.scalar_type(), " ", bytes.sizes(), "."));
  }
  const auto unpacked =
      unpack_bits({bytes.const_data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel())}, count,
                  static_cast<int>(bits));
  const auto highest = std::max_element(unpacked.begin(), unpacked.end());
  if (highest != unpacked.end() && *highest >= entries) {
    throw InvalidArgument(
        text("SharedLinear: expected `codes` up to ", entries - 1, ", got ", int{*highest}, "."));
  }
}

void SharedLinearImpl::pretty_print(std::ostream& stream) const {
  stream << "pomona::nn::SharedLinear(in_features=" << in_features
         << ", out_features=" << out_features << ", centroids=" << codebook.numel()
         << std::boolalpha << ", has_zero=" << has_zero << ", bits=" << bits
         << ", bias=" << bias.defined() << ")";
}

at::Tensor SharedLinearImpl::weight() const {
  const at::Tensor entries = has_zero ? at::constant_pad_nd(codebook, {1, 0}) : codebook;
  return lookup(entries, codes, {out_features, in_features}, {bits});
}

at::Tensor SharedLinearImpl::forward(const at::Tensor& input) {
  return at::linear(input, weight(), bias.defined() ? std::optional(bias) : std::nullopt);
}

}  // namespace pomona::nn
