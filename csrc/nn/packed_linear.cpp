#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"

#include "base/text.h"
#include "nn/packed_layer.h"

#include <ostream>

namespace pomona::nn {
namespace {

void check_bias(const at::Tensor& bias, int64_t out_features) {
  if (!bias.defined()) return;
  if (!bias.is_floating_point() || bias.dim() != 1 || bias.size(0) != out_features) {
    throw InvalidArgument(text("PackedLinear: expected `bias` to be floating point of shape [",
                               out_features, "], got ", bias.scalar_type(), " ", bias.sizes(),
                               "."));
  }
}

at::Tensor copy_on_cpu(const at::Tensor& bias) {
  if (!bias.defined()) return bias;
  return bias.detach().to(at::TensorOptions(at::kCPU), false, /*copy=*/true);
}

}  // namespace

PackedLinearImpl::PackedLinearImpl(const Packed& facts, const at::Tensor& bytes,
                                   const at::Tensor& bias_or_none, bool relu)
    : in_features(facts.cols),
      out_features(facts.rows),
      options{.layout = facts.layout, .precision = facts.precision},
      has_relu(relu) {
  check_bias(bias_or_none, out_features);
  packed = register_buffer("packed", bytes);
  if (bias_or_none.defined()) bias = register_buffer("bias", bias_or_none.detach());
}

PackedLinearImpl::PackedLinearImpl(const Packed& matrix, const at::Tensor& bias_or_none, bool relu)
    : PackedLinearImpl(matrix, to_tensor(matrix), copy_on_cpu(bias_or_none), relu) {}

std::shared_ptr<PackedLinearImpl> PackedLinearImpl::from_packed(const at::Tensor& packed,
                                                                const at::Tensor& bias, bool relu) {
  return std::shared_ptr<PackedLinearImpl>(
      new PackedLinearImpl(facts_of(packed), packed, bias, relu));
}

PackedLinearImpl::PackedLinearImpl(const at::Tensor& weight, const at::Tensor& bias_or_none,
                                   const PackOptions& packing, bool relu)
    : PackedLinearImpl(pack(to_weight("weight", weight), packing, torch_threads()), bias_or_none,
                       relu) {
  options = packing;
  to(weight.device());
}

void PackedLinearImpl::reset() {
  packed = register_buffer("packed", packed.clone());
  if (bias.defined()) bias = register_buffer("bias", bias.clone());
}

void PackedLinearImpl::load(torch::serialize::InputArchive& archive) {
  load_checked(*this, packed, archive, [&] {
    const auto matrix = checked_matrix("PackedLinear", packed, out_features, in_features);
    check_bias(bias, out_features);
    options = {.layout = matrix.layout, .precision = matrix.precision};
  });
}

void PackedLinearImpl::pretty_print(std::ostream& stream) const {
  stream << "pomona::nn::PackedLinear(in_features=" << in_features
         << ", out_features=" << out_features << ", bias=" << std::boolalpha << bias.defined()
         << ")";
}

at::Tensor PackedLinearImpl::forward(const at::Tensor& input) {
  const auto wide_bias =
      bias.defined() ? std::optional<at::Tensor>(bias.to(at::kFloat)) : std::nullopt;
  if (!input.is_floating_point())
    return packed_linear(input, packed, wide_bias, out_features, has_relu);
  return packed_linear(input.to(at::kFloat), packed, wide_bias, out_features, has_relu)
      .to(input.scalar_type());
}

void PackedLinearImpl::pack_weight_(const at::Tensor& weight) {
  const auto matrix = pack(to_weight("weight", weight), options, torch_threads());
  check_shape("PackedLinear", "weight", matrix, out_features, in_features);
  packed.set_data(to_tensor(matrix).to(packed.device()));
}

at::Tensor PackedLinearImpl::weight() const {
  return packed_weight(packed, out_features, in_features);
}

}  // namespace pomona::nn
