#include "pomona/error.h"
#include "pomona/prune.h"
#include "pomona/selection.h"

#include "base/text.h"
#include "prune/apply_masks.h"
#include "prune/select_kernel.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <cstring>
#include <map>
#include <set>
#include <unordered_map>

namespace pomona {
namespace {

int64_t row_count(const std::vector<int64_t>& shape) {
  return shape.empty() ? 1 : shape[0];
}

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

// The row-aligned bytes of a mask as a CPU tensor.
at::Tensor to_tensor(const Mask& mask, const std::vector<int64_t>& shape) {
  const auto expected = mask_shape(c10::fromIntArrayRefSlow(shape));
  const auto bytes = mask.to_row_bytes(row_count(shape));
  at::Tensor tensor = at::empty({expected[0].expect_int(), expected[1].expect_int()}, at::kByte);
  std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

// Its inverse. REQUIRES: the shape is that of to_tensor.
Mask to_mask(const at::Tensor& tensor, const std::vector<int64_t>& shape) {
  const at::Tensor bytes = tensor.to(at::kCPU).contiguous();
  return Mask::from_row_bytes({bytes.const_data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel())},
                              element_count(shape), row_count(shape));
}

// A tensor whose memory is what it seems to be: no wrapper subclass (8-bit states), nothing sparse.
bool is_plain(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided && tensor.is_floating_point() &&
         !tensor.key_set().has(c10::DispatchKey::Python);
}

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

struct Selection {
  Mask mask;
  double threshold;
};

template <class Float>
Selection select_in(const std::string& name, const at::Tensor& values, double sparsity,
                    const Mask& previous) {
  const std::span<const Float> scores(values.const_data_ptr<Float>(),
                                      static_cast<size_t>(values.numel()));
  if (const auto wrong = first_not_finite(scores)) {
    throw InvalidArgument(text("Pruner: expected `", name, "` to be finite, got ", scores[*wrong],
                               " at index ", *wrong, " (row-major)."));
  }
  Mask mask = select_smallest(scores, sparsity, previous);
  const double threshold = pruned_threshold(scores, mask);
  return {std::move(mask), threshold};
}

// `scores` may be of any device, dtype and strides; ties break in logical row-major order.
Selection select_one(const std::string& name, const at::Tensor& scores, double sparsity,
                     const Mask& previous, const AllReduce& all_reduce) {
  // A sum over ranks needs double: in float, equal sums of unequal magnitudes would be ties.
  const bool is_double = all_reduce || scores.scalar_type() == at::kDouble;
  at::Tensor values = scores.detach().to(is_double ? at::kDouble : at::kFloat);
  if (all_reduce) {
    values = values.abs();
    all_reduce(values);
  }
  values = values.to(at::kCPU).contiguous();
  return is_double ? select_in<double>(name, values, sparsity, previous)
                   : select_in<float>(name, values, sparsity, previous);
}

void check_finite(const std::string& name, const at::Tensor& weight) {
  if (!weight.isfinite().all().item<bool>()) {
    throw InvalidArgument(text("Pruner: expected `", name, "` to be finite, got NaN or Inf."));
  }
}

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

}  // namespace

Pruner::Pruner(std::vector<Ruled<Prune>> parameters, AllReduce all_reduce)
    : all_reduce_(std::move(all_reduce)) {
  std::set<std::string> seen;
  for (auto& [parameter, rule] : parameters) {
    if (!(rule.sparsity >= 0 && rule.sparsity < 1)) {
      throw InvalidArgument(text("Pruner: expected `sparsity` of ", parameter.name,
                                 " in [0, 1), got ", rule.sparsity, "."));
    }
    if (!seen.insert(parameter.name).second) {
      throw InvalidArgument(
          text("Pruner: expected every name once, got `", parameter.name, "` twice."));
    }
    masks_.emplace_back(element_count(parameter.shape));
    names_.push_back(std::move(parameter.name));
    shapes_.push_back(std::move(parameter.shape));
    rules_.push_back(rule);
  }
  thresholds_.resize(names_.size());
  mask_bytes_.resize(names_.size());
}

void Pruner::check_index(size_t i, const at::Tensor& tensor) const {
  if (i >= names_.size()) {
    throw InvalidArgument(
        text("Pruner: expected an index below ", names_.size(), ", got ", i, "."));
  }
  if (!tensor.defined() || tensor.sizes() != at::IntArrayRef(shapes_[i])) {
    throw InvalidArgument(text("Pruner: expected `", names_[i], "` of shape ",
                               at::IntArrayRef(shapes_[i]), ", got ",
                               tensor.defined() ? text(tensor.sizes()) : "no tensor", "."));
  }
}

void Pruner::check_live(std::span<const Live> live) const {
  if (live.size() != names_.size()) {
    throw InvalidArgument(text("Pruner: expected ", names_.size(), " live parameters, got ",
                               live.size(), ". Pass them in the order of names()."));
  }
  for (size_t i = 0; i < live.size(); ++i) {
    check_index(i, live[i].weight);
    if (!is_plain(live[i].weight)) {
      throw InvalidArgument(text("Pruner: expected `", names_[i],
                                 "` to be a plain floating-point tensor, got ",
                                 live[i].weight.toString(), "."));
    }
  }
}

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

void Pruner::set_masks(std::vector<Mask> masks, std::vector<double> thresholds) {
  masks_ = std::move(masks);
  thresholds_ = std::move(thresholds);
  mask_bytes_.assign(names_.size(), at::Tensor());
}

bool Pruner::step(std::span<const Live> live, std::span<const at::Tensor> scores) {
  if (is_pruned_) {
    check(live);
    return false;
  }
  check_live(live);
  if (!scores.empty() && scores.size() != names_.size()) {
    throw InvalidArgument(text("Pruner: expected no `scores` or one tensor for each of ",
                               names_.size(), " parameters, got ", scores.size(), "."));
  }
  std::vector<Mask> masks;
  std::vector<double> thresholds;
  for (size_t i = 0; i < live.size(); ++i) {
    if (!scores.empty()) check_finite(names_[i], live[i].weight);
    const at::Tensor& score = scores.empty() ? live[i].weight : scores[i];
    check_index(i, score);
    auto [mask, threshold] =
        select_one(names_[i], score, rules_[i].sparsity, masks_[i], all_reduce_);
    masks.push_back(std::move(mask));
    thresholds.push_back(threshold);
  }
  const bool has_changed = masks != masks_;
  set_masks(std::move(masks), std::move(thresholds));
  is_pruned_ = true;
  zero(live, true);
  return has_changed;
}

void Pruner::zero(std::span<const Live> live, bool with_first_moments) const {
  Batch batch;
  for (size_t i = 0; i < live.size(); ++i) {
    batch.add(live[i].weight, mask_bytes(i, live[i].weight.device()));
    if (!with_first_moments) continue;
    for (const auto& state : moments(live[i], Moment::kFirst)) {
      batch.add(state, mask_bytes(i, state.device()));
    }
  }
  batch.apply();
}

void Pruner::mask_gradient(size_t i, const at::Tensor& gradient) const {
  if (!is_pruned_) return;
  check_index(i, gradient);
  const at::Tensor& mask = mask_bytes(i, gradient.device());
  if (gradient.layout() == at::kSparse) {
    mask_sparse_gradient(gradient, mask);
  } else {
    apply_masks_({gradient}, {mask});
  }
}

void Pruner::mask_gradients(std::span<const Live> live) const {
  if (!is_pruned_) return;
  check_live(live);
  Batch batch;
  for (size_t i = 0; i < live.size(); ++i) {
    const at::Tensor& gradient = live[i].weight.grad();
    if (!gradient.defined()) continue;
    if (gradient.layout() == at::kSparse) {
      mask_gradient(i, gradient);
    } else {
      batch.add(gradient, mask_bytes(i, gradient.device()));
    }
  }
  batch.apply();
}

void Pruner::keep(std::span<const Live> live) const {
  if (!is_pruned_) return;
  check_live(live);
  zero(live, false);
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
    const at::Tensor pruned = weight.masked_fill(keep_mask(i, weight.device()), 0);
    const auto count = pruned.count_nonzero().item<int64_t>();
    if (count > 0) revived.push_back(text(count, " nonzero in ", names_[i]));
  }
  if (revived.empty()) return;
  throw InvalidArgument(text("Pruner: expected every pruned weight to be 0, got ", join(revived),
                             ". After the model or its optimizer is copied, loaded or replaced, "
                             "attach the new optimizer."));
}

void Pruner::release(std::span<const Live> live, bool seed_second_moments) {
  check_live(live);
  if (!is_pruned_) return;
  const c10::AutoGradMode no_grad(false);
  for (size_t i = 0; i < live.size() && seed_second_moments; ++i) {
    for (const auto& state : moments(live[i], Moment::kSecond)) {
      seed_with_mean(state, keep_mask(i, state.device()));
    }
  }
  std::vector<Mask> masks;
  for (const Mask& mask : masks_) masks.emplace_back(mask.size());
  set_masks(std::move(masks), std::vector<double>(names_.size()));
  is_pruned_ = false;
}

std::vector<PruneReport> Pruner::report() const {
  std::vector<PruneReport> rows;
  for (size_t i = 0; i < names_.size(); ++i) {
    rows.push_back({names_[i], masks_[i].size(), masks_[i].kept(), thresholds_[i]});
  }
  return rows;
}

double Pruner::sparsity() const {
  int64_t size = 0, kept = 0;
  for (const Mask& mask : masks_) {
    size += mask.size();
    kept += mask.kept();
  }
  return size == 0 ? 0.0 : static_cast<double>(size - kept) / static_cast<double>(size);
}

Pruner::Snapshot Pruner::state() const {
  Snapshot snapshot{is_pruned_, thresholds_, {}};
  for (size_t i = 0; i < names_.size(); ++i) {
    snapshot.masks.emplace_back(names_[i], to_tensor(masks_[i], shapes_[i]));
  }
  return snapshot;
}

void Pruner::load_state(const Snapshot& snapshot) {
  std::map<std::string, at::Tensor> by_name(snapshot.masks.begin(), snapshot.masks.end());
  std::vector<std::string> wrong;
  std::vector<Mask> masks;
  for (size_t i = 0; i < names_.size(); ++i) {
    const auto found = by_name.extract(names_[i]);
    const at::Tensor tensor = found ? found.mapped() : at::Tensor();
    const auto expected = mask_shape(c10::fromIntArrayRefSlow(shapes_[i]));
    if (!tensor.defined()) {
      wrong.push_back(names_[i] + " is missing");
    } else if (tensor.scalar_type() != at::kByte ||
               tensor.sym_sizes() != c10::SymIntArrayRef(expected)) {
      wrong.push_back(text(names_[i], " is ", tensor.scalar_type(), " ", tensor.sizes(),
                           " where the model needs Byte ", c10::SymIntArrayRef(expected)));
    } else {
      masks.push_back(to_mask(tensor, shapes_[i]));
    }
  }
  for (const auto& [name, tensor] : by_name) wrong.push_back(name + " has no rule here");
  if (wrong.empty() && snapshot.thresholds.size() != names_.size()) {
    wrong.push_back(text(snapshot.thresholds.size(), " thresholds for ", names_.size(), " masks"));
  }
  if (!wrong.empty()) {
    throw InvalidArgument(
        text("Pruner: expected the state of the same model and rules, got: ", join(wrong), "."));
  }
  set_masks(std::move(masks), snapshot.thresholds);
  is_pruned_ = snapshot.is_pruned;
}

}  // namespace pomona
