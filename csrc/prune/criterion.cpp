#include "prune/criterion.h"

#include "pomona/error.h"

#include "base/text.h"
#include "prune/threshold_kernel.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace pomona {
namespace {

at::ScalarType wide(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The moving average of squared gradients that Adam and its kin keep.
const at::Tensor& second_moment(const std::string& name, const Live& live) {
  for (const State& state : live.state) {
    if (state.name == "exp_avg_sq" && state.value.sizes() == live.weight.sizes()) {
      return state.value;
    }
  }
  throw InvalidArgument(text("Pruner: expected the optimizer to keep `exp_avg_sq` for `", name,
                             "` (Adam and its kin, after a step), got none. Without it: "
                             "from_optimizer=false."));
}

// FNV-1a: the same name gives other random numbers than its neighbour.
uint64_t hash_of(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char letter : name) {
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;
  }
  return hash;
}

at::Tensor random_scores(uint64_t seed, const at::Tensor& like, int64_t first) {
  at::Tensor scores = at::empty(like.sizes(), at::kDouble);
  fill_random(seed, first,
              {scores.mutable_data_ptr<double>(), static_cast<size_t>(scores.numel())});
  return scores;
}

}  // namespace

bool needs_gradients(const Criterion& criterion) {
  return criterion.kind == Criterion::Kind::kTaylor ||
         (criterion.kind == Criterion::Kind::kObd && !criterion.from_optimizer);
}

bool accumulate_gradient(const Criterion& criterion, at::Tensor& accumulated,
                         const at::Tensor& weight, double grad_scale) {
  const at::Tensor& given = weight.grad();
  if (!given.defined()) return false;
  const at::ScalarType dtype = wide(weight);
  at::Tensor gradient = (given.is_sparse() ? given.to_dense() : given).detach().to(dtype);
  gradient = at::where(at::isfinite(gradient), gradient, 0).div_(grad_scale);
  if (!accumulated.defined()) {
    accumulated = at::zeros(weight.sizes(), weight.options().dtype(dtype).requires_grad(false));
  } else if (accumulated.device() != weight.device() || accumulated.scalar_type() != dtype) {
    accumulated = accumulated.to(weight.device(), dtype);
  }
  if (criterion.kind == Criterion::Kind::kTaylor) {
    accumulated.add_(gradient.mul_(weight.detach()).abs_());
  } else {
    accumulated.mul_(criterion.decay).addcmul_(gradient, gradient, 1 - criterion.decay);
  }
  return true;
}

at::Tensor scores_of(const Criterion& criterion, const std::string& name, const at::Tensor& dense,
                     const Live& live, const at::Tensor& accumulated, int64_t first,
                     int64_t round) {
  switch (criterion.kind) {
    case Criterion::Kind::kRandom:
      return random_scores(criterion.seed ^ hash_of(name) ^ static_cast<uint64_t>(round), dense,
                           first);
    case Criterion::Kind::kTaylor:
    case Criterion::Kind::kObd: {
      const bool is_taylor = criterion.kind == Criterion::Kind::kTaylor;
      if (!is_taylor && criterion.from_optimizer) {
        return dense.to(wide(dense)).square().mul(second_moment(name, live));
      }
      if (!accumulated.defined()) {
        throw InvalidArgument(text("Pruner: expected gradients of `", name,
                                   "` before this step(), got none. Train with an attached "
                                   "optimizer, or call accumulate() after backward()."));
      }
      const at::Tensor scores = accumulated.to(dense.device());
      return is_taylor ? scores : dense.to(scores.scalar_type()).square().mul(scores);
    }
    default:
      return dense;
  }
}

}  // namespace pomona
