#include "nn/shared_layer.h"

#include "pomona/error.h"
#include "pomona/packed_bits.h"
#include "pomona/quantize.h"

#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique2.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/where.h>

#include <algorithm>

namespace pomona::nn {
namespace {

constexpr int64_t kMaxValues = 256;  // codes have at most 8 bits

void check_weight(const char* layer, const at::Tensor& weight, int64_t dims, const char* shape) {
  if (!weight.is_floating_point() || weight.dim() != dims) {
    throw InvalidArgument(text(layer, ": expected `weight` to be floating-point ", shape, ", got ",
                               weight.scalar_type(), " ", weight.sizes(), "."));
  }
  if (!at::isfinite(weight).all().item<bool>()) {
    throw InvalidArgument(text(layer, ": expected `weight` to be finite, got NaN or Inf."));
  }
}

}  // namespace

at::Tensor packed_codes(const at::Tensor& indices, int64_t bits) {
  const at::Tensor bytes = indices.to(at::kByte).cpu().contiguous();
  const auto packed =
      pack_bits({bytes.const_data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel())},
                static_cast<int>(bits));
  const at::Tensor codes = at::empty({static_cast<int64_t>(packed.size())}, at::kByte);
  std::copy(packed.begin(), packed.end(), codes.mutable_data_ptr<uint8_t>());
  return codes.to(indices.device());
}

SharedWeight take_codebook(const char* layer, const at::Tensor& weight, int64_t dims,
                           const char* shape) {
  check_weight(layer, weight, dims, shape);
  auto [values, indices, counts] =
      at::_unique2(weight.detach().contiguous().flatten(), /*sorted=*/true,
                   /*return_inverse=*/true);
  const int64_t count = values.numel();
  if (count > kMaxValues) {
    throw InvalidArgument(text(layer, ": expected `weight` to have at most 256 distinct values, ",
                               "got ", count, ". Share it first (pomona::Sharer)."));
  }
  const bool has_zero = count == 0 || values.eq(0).any().item<bool>();
  if (has_zero && count > 0) {
    // zero stands amid the ascending values; its code is 0 and those before it move up by one
    const int64_t zero = values.lt(0).sum().item<int64_t>();
    indices = at::where(indices.eq(zero), 0, at::where(indices.lt(zero), indices + 1, indices));
    values = values.masked_select(values.ne(0));
  }
  const int64_t bits = storage_bits(values.numel() + (has_zero ? 1 : 0));
  return {values, packed_codes(indices, bits), bits, has_zero};
}

void check_shared(const char* layer, const SharedWeight& shared, int64_t count) {
  const int64_t bits = shared.bits;
  const int64_t entries = shared.codebook.numel() + (shared.has_zero ? 1 : 0);
  if (shared.codebook.dim() != 1 || entries < 1 || entries > int64_t{1} << bits) {
    throw InvalidArgument(text(layer, ": expected `codebook` [k] for codes of ", bits,
                               " bits, got ", shared.codebook.sizes(), "."));
  }
  const at::Tensor bytes = shared.codes.cpu().contiguous();
  if (bytes.scalar_type() != at::kByte ||
      bytes.sizes() != at::IntArrayRef{packed_size(count, static_cast<int>(bits))}) {
    throw InvalidArgument(text(layer, ": expected `codes` to be ", count, " codes of ", bits,
                               " bits, got ", bytes.scalar_type(), " ", bytes.sizes(), "."));
  }
  const auto unpacked =
      unpack_bits({bytes.const_data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel())}, count,
                  static_cast<int>(bits));
  const auto highest = std::max_element(unpacked.begin(), unpacked.end());
  if (highest != unpacked.end() && *highest >= entries) {
    throw InvalidArgument(
        text(layer, ": expected `codes` up to ", entries - 1, ", got ", int{*highest}, "."));
  }
}

at::Tensor lookup_shared(const SharedWeight& shared, at::IntArrayRef shape,
                         std::optional<at::ScalarType> dtype) {
  return lookup(shared.codebook, shared.codes, shape,
                {.bits = shared.bits, .has_zero = shared.has_zero, .dtype = dtype});
}

}  // namespace pomona::nn
