// Pruner while the network trains: gradients before the step, weights after it, and the weights
// that may return under dynamic network surgery.
//
// Note [Shadows]. Under kSurgery (Guo et al., 2016) a pruned weight goes on learning and may come
// back, while the forward pass sees zero. The weight is an ordinary Parameter, so what it would be
// is kept beside it, in `shadow`: before the optimizer's step it is put back (gradients are not
// masked then), after the step it is taken out again.
//
//   forward, backward     weight = kept | 0          shadow = 0 | pruned
//   optimizer.step()      weight = kept | pruned
#include "pomona/error.h"
#include "pomona/prune.h"

#include "base/text.h"
#include "prune/apply_masks.h"
#include "prune/check_masks_kernel.h"
#include "prune/criterion.h"
#include "prune/mask_tensor.h"

#include <ATen/ops/arange.h>
#include <c10/core/GradMode.h>

#include <numeric>
#include <unordered_map>

namespace pomona {
namespace {

// The state of `live` that is such a moment and that we may write.
std::vector<at::Tensor> moments(const Live& live, Moment moment) {
  std::vector<at::Tensor> found;
  for (const State& state : live.state) {
    if (moment_of(state.name) == moment && is_plain(state.value) &&
        state.value.sizes() == live.weight.sizes()) {
      found.push_back(state.value);
    }
  }
  return found;
}

// Tensors and masks for one call of the operator per device.
class Batch {
 public:
  void add(const at::Tensor& tensor, const at::Tensor& mask) {
    auto& [tensors, masks] = by_device_[tensor.device()];
    tensors.push_back(tensor);
    masks.push_back(mask);
  }
  void apply() const {
    for (const auto& [device, lists] : by_device_) apply_masks_(lists.first, lists.second);
  }

 private:
  std::unordered_map<c10::Device, std::pair<std::vector<at::Tensor>, std::vector<at::Tensor>>>
      by_device_;
};

// Zeroes the pruned entries of the rows that a sparse gradient holds, without making it dense.
void mask_sparse_gradient(const at::Tensor& gradient, const at::Tensor& mask) {
  if (gradient.sparse_dim() != 1) {
    throw InvalidArgument(
        text("Pruner: expected a sparse gradient to be sparse over dimension 0 "
             "alone, got ",
             gradient.sparse_dim(), " sparse dimensions."));
  }
  const at::Tensor rows = gradient._indices()[0];
  apply_masks_({gradient._values()}, {mask.index_select(0, rows)});
}

// Each entry that the mask prunes takes the mean over those that it keeps. Nothing to learn from
// when none is kept.
void seed_with_mean(const at::Tensor& state, const at::Tensor& keep) {
  const at::Tensor survivors = state.masked_select(keep);
  if (survivors.numel() == 0) return;
  const bool is_double = state.scalar_type() == at::kDouble;
  const at::Tensor mean = survivors.mean(is_double ? at::kDouble : at::kFloat);
  state.masked_fill_(keep.logical_not(), mean.to(state.scalar_type()));
}

template <class Word>
int64_t count_on_host(const at::Tensor& weight, const at::Tensor& mask) {
  const at::IntArrayRef sizes = weight.sizes(), strides = weight.strides();
  const auto inner = [](at::IntArrayRef dims) {
    return dims.empty() ? std::span<const int64_t>() : std::span(dims.data() + 1, dims.size() - 1);
  };
  const int64_t rows = sizes.empty() ? 1 : sizes[0];
  return count_revived<Word>(
      {static_cast<const Word*>(weight.const_data_ptr()), mask.const_data_ptr<uint8_t>(),
       weight.numel() / rows, strides.empty() ? 1 : strides[0], inner(sizes), inner(strides)},
      rows);
}

int64_t count_revived_on_host(const at::Tensor& weight, const at::Tensor& mask) {
  if (weight.numel() == 0) return 0;
  switch (weight.element_size()) {
    case 1:
      return count_on_host<uint8_t>(weight, mask);
    case 2:
      return count_on_host<uint16_t>(weight, mask);
    case 4:
      return count_on_host<uint32_t>(weight, mask);
    default:
      return count_on_host<uint64_t>(weight, mask);
  }
}

}  // namespace

const at::Tensor& Pruner::mask_bytes(size_t i, const at::Device& device) const {
  at::Tensor& cached = mask_bytes_[i];
  if (!cached.defined() || cached.device() != device) {
    cached = to_tensor(masks_[i], shapes_[i]).to(device);
  }
  return cached;
}

at::Tensor Pruner::keep_mask(size_t i, const at::Device& device) const {
  const at::Tensor& bytes = mask_bytes(i, device);
  const at::Tensor bit = at::arange(8, at::TensorOptions(at::kByte).device(device));
  const int64_t rows = bytes.size(0);
  const int64_t row_size = rows == 0 ? 0 : masks_[i].size() / rows;
  return bytes.unsqueeze(-1)
      .bitwise_right_shift(bit)
      .bitwise_and(1)
      .view({rows, bytes.size(1) * 8})
      .narrow(1, 0, row_size)
      .reshape(shapes_[i])
      .to(at::kBool);
}

bool Pruner::may_return(size_t i) const {
  return may_return_after(rules_[i].schedule, steps_);
}

// REQUIRES: check_live. Throws InvalidArgument for an index that no parameter has.
std::vector<size_t> Pruner::all_or(std::span<const size_t> which) const {
  std::vector<size_t> indices(which.begin(), which.end());
  if (indices.empty()) {
    indices.resize(names_.size());
    std::iota(indices.begin(), indices.end(), size_t{0});
  }
  for (const size_t i : indices) {
    if (i >= names_.size()) {
      throw InvalidArgument(
          text("Pruner: expected an index below ", names_.size(), ", got ", i, "."));
    }
  }
  return indices;
}

void Pruner::zero(std::span<const Live> live, std::span<const size_t> which,
                  bool with_first_moments) const {
  Batch batch;
  for (const size_t i : which) {
    batch.add(live[i].weight, mask_bytes(i, live[i].weight.device()));
    if (!with_first_moments || may_return(i)) continue;
    for (const auto& state : moments(live[i], Moment::kFirst)) {
      batch.add(state, mask_bytes(i, state.device()));
    }
  }
  batch.apply();
}

void Pruner::mask_gradient(size_t i, const at::Tensor& gradient) const {
  if (!is_pruned_) return;
  check_index(i, gradient);
  if (may_return(i)) return;
  const at::Tensor& mask = mask_bytes(i, gradient.device());
  if (gradient.layout() == at::kSparse) {
    mask_sparse_gradient(gradient, mask);
  } else {
    apply_masks_({gradient}, {mask});
  }
}

void Pruner::mask_gradients(std::span<const Live> live, std::span<const size_t> which) const {
  if (!is_pruned_) return;
  check_live(live);
  Batch batch;
  for (const size_t i : all_or(which)) {
    const at::Tensor& gradient = live[i].weight.grad();
    if (!gradient.defined() || may_return(i)) continue;
    if (gradient.layout() == at::kSparse) {
      mask_gradient(i, gradient);
    } else {
      batch.add(gradient, mask_bytes(i, gradient.device()));
    }
  }
  batch.apply();
}

void Pruner::accumulate(std::span<const Live> live, double grad_scale,
                        std::span<const size_t> which) {
  check_live(live);
  const c10::AutoGradMode no_grad(false);
  for (const size_t i : all_or(which)) {
    if (!needs_scores(i) || steps_ > last_step(rules_[i].schedule)) continue;
    Memory& memory = memory_[i];
    const bool has_gradient =
        accumulate_gradient(rules_[i].criterion, memory.scores, live[i].weight, grad_scale);
    memory.accumulated += has_gradient ? 1 : 0;
  }
}

void Pruner::before_step(std::span<const Live> live, double grad_scale,
                         std::span<const size_t> which) {
  mask_gradients(live, which);
  accumulate(live, grad_scale, which);
  for (const size_t i : all_or(which)) {
    if (may_return(i)) give_shadow(i, live[i].weight);
  }
}

void Pruner::keep(std::span<const Live> live, std::span<const size_t> which) {
  if (!is_pruned_) return;
  check_live(live);
  const std::vector<size_t> indices = all_or(which);
  for (const size_t i : indices) {
    if (memory_[i].is_shadow_out) take_shadow(i, live[i].weight);
  }
  zero(live, indices, false);
}

void Pruner::take_shadow(size_t i, const at::Tensor& weight) {
  const c10::AutoGradMode no_grad(false);
  const at::Tensor pruned = weight.detach().clone();
  apply_masks_({pruned}, {mask_bytes(i, weight.device()).bitwise_not()});
  memory_[i].shadow = pruned;
  memory_[i].is_shadow_out = false;
}

void Pruner::give_shadow(size_t i, const at::Tensor& weight) {
  Memory& memory = memory_[i];
  if (!memory.shadow.defined() || memory.is_shadow_out) return;
  const c10::AutoGradMode no_grad(false);
  weight.add_(memory.shadow.to(weight.device(), weight.scalar_type()));
  memory.is_shadow_out = true;
}

void Pruner::apply_(size_t i, const at::Tensor& tensor) const {
  check_index(i, tensor);
  if (is_pruned_) apply_masks_({tensor}, {mask_bytes(i, tensor.device())});
}

void Pruner::check(std::span<const Live> live) const {
  check_live(live);
  if (!is_pruned_) return;
  const c10::AutoGradMode no_grad(false);
  std::vector<std::string> revived;
  for (size_t i = 0; i < live.size(); ++i) {
    const at::Tensor& weight = live[i].weight;
    const int64_t count =
        weight.is_cpu()
            ? count_revived_on_host(weight, mask_bytes(i, weight.device()))
            : weight.masked_fill(keep_mask(i, weight.device()), 0).count_nonzero().item<int64_t>();
    if (count > 0) revived.push_back(text(count, " nonzero in ", names_[i]));
  }
  if (revived.empty()) return;
  throw InvalidArgument(text("Pruner: expected every pruned weight to be 0, got ", join(revived),
                             ". After the model or its optimizer is copied, loaded or replaced, "
                             "attach the new optimizer."));
}

void Pruner::release(std::span<const Live> live, bool seed_second_moments) {
  check_live(live);
  steps_ = 0;
  if (!is_pruned_) return;
  const c10::AutoGradMode no_grad(false);
  for (size_t i = 0; i < live.size() && seed_second_moments; ++i) {
    for (const auto& state : moments(live[i], Moment::kSecond)) {
      seed_with_mean(state, keep_mask(i, state.device()));
    }
  }
  std::vector<Mask> masks;
  std::vector<int64_t> kept;
  for (size_t i = 0; i < names_.size(); ++i) {
    masks.emplace_back(masks_[i].size());
    kept.push_back(size_on_all_ranks(i));
  }
  set_masks(std::move(masks), std::move(kept), std::vector<double>(names_.size()));
  memory_.assign(names_.size(), {});
  is_pruned_ = false;
}

}  // namespace pomona
