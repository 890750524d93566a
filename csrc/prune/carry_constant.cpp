#include "prune/carry_constant.h"

#include "pomona/error.h"

#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <limits>

namespace pomona {
namespace {

// What an operation makes of the values, and where that is no constant (undefined: nowhere).
struct Step {
  at::Tensor values;
  at::Tensor is_inexact{};
  std::string why{};
};

double epsilon_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return std::numeric_limits<double>::epsilon();
    case at::kHalf:
      return 0x1p-10;
    case at::kBFloat16:
      return 0x1p-7;
    default:
      return std::numeric_limits<float>::epsilon();
  }
}

int64_t positions(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (size_t d = 2; d < shape.size(); ++d) count *= shape[d];
  return count;
}

// A pool passes a constant on, unless it counts the zeros of its padding.
Step through_pool(const DeadOperation& pool, const at::Tensor& values) {
  std::vector<int64_t> one(pool.shape.size(), 1), whole(pool.shape);
  one[1] = values.numel();
  whole[0] = 1;
  whole[1] = values.numel();
  const at::Tensor maps = values.reshape(one).expand(whole).contiguous();
  const at::Tensor pooled = pool.run(maps).reshape({values.numel(), -1}).to(at::kDouble);
  const at::Tensor wanted = values.to(at::kDouble).unsqueeze(1);
  const double tolerance = 64 * epsilon_of(values.scalar_type());
  const at::Tensor is_same = (pooled - wanted).abs().le(wanted.abs() * tolerance).all(1);
  return {values, ~is_same,
          text("`", pool.name, "` does not keep a constant (padding), folding would be inexact")};
}

// By running statistics; in training a constant becomes the norm's own bias.
Step through_norm(const DeadOperation& norm, const at::Tensor& values) {
  const at::Tensor in_training = norm.bias.defined() ? norm.bias.detach() : at::zeros_like(values);
  if (!norm.running_mean.defined()) return {in_training.to(values.scalar_type())};
  const at::Tensor carried =
      at::batch_norm(values.unsqueeze(0), norm.weight, norm.bias, norm.running_mean,
                     norm.running_var, /*training=*/false, /*momentum=*/0.0, norm.eps,
                     /*cudnn_enabled=*/false)
          .squeeze(0);
  if (!norm.is_training) return {carried};
  return {carried, carried.ne(in_training), text("`", norm.name, "` is in training mode")};
}

Step through(const DeadOperation& operation, const at::Tensor& values) {
  switch (operation.kind) {
    case DeadOperation::Kind::kElement:
      return {operation.run(values.clone())};  // it may work in place
    case DeadOperation::Kind::kFlat:
      return {values.repeat_interleave(positions(operation.shape))};
    case DeadOperation::Kind::kDropout:
      if (!operation.is_random) return {values};
      return {values, values.ne(0), text("`", operation.name, "` is on in evaluation too")};
    case DeadOperation::Kind::kPool:
      return through_pool(operation, values);
    case DeadOperation::Kind::kNorm:
      return through_norm(operation, values);
  }
  return {values};
}

}  // namespace

Carried carry_constant(const DeadLayer& layer, const at::Tensor& bias) {
  const at::NoGradGuard no_grad;
  const int64_t neurons = layer.weight.size(0);
  Carried carried{bias.defined() ? bias : at::zeros({neurons}, layer.weight.options()), {}};
  for (const auto& operation : layer.operations) {
    auto [values, is_inexact, why] = through(operation, carried.values);
    carried.values = values;
    if (is_inexact.defined()) {
      carried.whys.push_back({is_inexact.view({neurons, -1}).any(1), std::move(why)});
    }
  }
  return carried;
}

}  // namespace pomona
