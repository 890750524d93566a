// Pruner: reports, snapshots, and following a parameter that has become smaller.
#include "pomona/error.h"
#include "pomona/prune.h"

#include "base/text.h"
#include "prune/apply_masks.h"
#include "prune/criterion.h"
#include "prune/mask_tensor.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>

namespace pomona {
namespace {

using Tensors = Pruner::Snapshot::Tensors;

// What one part of a snapshot must hold: the tensor of each name, of this shape; nothing else.
class Reader {
 public:
  Reader(const char* part, const Tensors& tensors)
      : part_(part), by_name_(tensors.begin(), tensors.end()) {}

  // Undefined, with a line in `wrong`, when it is missing or of another shape or kind.
  at::Tensor take(const std::string& name, at::IntArrayRef shape, bool is_bytes,
                  std::vector<std::string>& wrong) {
    const auto found = by_name_.extract(name);
    const at::Tensor tensor = found ? found.mapped() : at::Tensor();
    if (!tensor.defined()) {
      wrong.push_back(text(part_, name, " is missing"));
      return {};
    }
    const bool has_kind = is_bytes ? tensor.scalar_type() == at::kByte : tensor.is_floating_point();
    if (!has_kind || tensor.sizes() != shape) {
      wrong.push_back(text(part_, name, " is ", tensor.scalar_type(), " ", tensor.sizes(),
                           " where the model needs ", is_bytes ? "Byte " : "", shape));
      return {};
    }
    return tensor;
  }
  void finish(std::vector<std::string>& wrong) const {
    for (const auto& [name, tensor] : by_name_) {
      wrong.push_back(text(part_, name, " has no rule here"));
    }
  }

 private:
  const char* part_;
  std::map<std::string, at::Tensor> by_name_;
};

}  // namespace

bool Pruner::needs_scores(size_t i) const {
  return needs_gradients(rules_[i].criterion);
}

bool Pruner::has_shadow(size_t i) const {
  return rules_[i].schedule.kind == Schedule::Kind::kSurgery;
}

void Pruner::set_masks(std::vector<Mask> masks, std::vector<int64_t> kept,
                       std::vector<double> thresholds) {
  masks_ = std::move(masks);
  kept_ = std::move(kept);
  thresholds_ = std::move(thresholds);
  mask_bytes_.assign(names_.size(), at::Tensor());
}

std::vector<int64_t> Pruner::count_kept(const std::vector<Mask>& masks) const {
  std::vector<int64_t> kept(masks.size());
  for (size_t i = 0; i < masks.size(); ++i) {
    const bool is_counted = ranks_.shards[i] || ranks_.rank == 0;
    kept[i] = is_counted ? masks[i].kept() : 0;
  }
  if (ranks_.size > 1) {
    at::Tensor sums = at::from_blob(kept.data(), {static_cast<int64_t>(kept.size())}, at::kLong);
    ranks_.sum(sums);
  }
  return kept;
}

std::vector<PruneReport> Pruner::report() const {
  std::vector<PruneReport> rows;
  for (size_t i = 0; i < names_.size(); ++i) {
    const int64_t size = size_on_all_ranks(i);
    const int64_t mask_bytes = kept_[i] == size ? 0 : (size + 7) / 8;
    rows.push_back({names_[i], size, kept_[i], thresholds_[i], 4 * kept_[i] + mask_bytes});
  }
  return rows;
}

double Pruner::sparsity() const {
  int64_t size = 0, kept = 0;
  for (size_t i = 0; i < names_.size(); ++i) {
    size += size_on_all_ranks(i);
    kept += kept_[i];
  }
  return size == 0 ? 0.0 : static_cast<double>(size - kept) / static_cast<double>(size);
}

Tensors Pruner::memory_of(bool shadows) const {
  Tensors tensors;
  for (size_t i = 0; i < names_.size(); ++i) {
    if (shadows ? !has_shadow(i) : !needs_scores(i)) continue;
    const at::Tensor& tensor = shadows ? memory_[i].shadow : memory_[i].scores;
    tensors.emplace_back(names_[i],
                         tensor.defined() ? tensor.clone() : at::zeros(shapes_[i], at::kFloat));
  }
  return tensors;
}

Pruner::Snapshot Pruner::state() const {
  Snapshot snapshot{is_pruned_, steps_, thresholds_, {}, {}, memory_of(false), memory_of(true)};
  for (size_t i = 0; i < names_.size(); ++i) {
    snapshot.masks.emplace_back(names_[i], to_tensor(masks_[i], shapes_[i]));
    snapshot.accumulated.push_back(memory_[i].accumulated);
  }
  return snapshot;
}

void Pruner::load_state(const Snapshot& snapshot) {
  std::vector<std::string> wrong;
  std::vector<Mask> masks;
  std::vector<Memory> memory(names_.size());
  Reader mask_reader("", snapshot.masks), scores("scores of ", snapshot.scores),
      shadows("shadow of ", snapshot.shadows);
  for (size_t i = 0; i < names_.size(); ++i) {
    const auto expected = mask_shape(c10::fromIntArrayRefSlow(shapes_[i]));
    const std::vector<int64_t> sizes{expected[0].expect_int(), expected[1].expect_int()};
    const at::Tensor mask = mask_reader.take(names_[i], sizes, true, wrong);
    if (mask.defined()) masks.push_back(to_mask(mask, shapes_[i]));
    if (needs_scores(i)) memory[i].scores = scores.take(names_[i], shapes_[i], false, wrong);
    if (has_shadow(i)) memory[i].shadow = shadows.take(names_[i], shapes_[i], false, wrong);
  }
  mask_reader.finish(wrong);
  scores.finish(wrong);
  shadows.finish(wrong);
  if (snapshot.steps < 0) wrong.push_back(text(snapshot.steps, " steps"));
  if (wrong.empty() && (snapshot.thresholds.size() != names_.size() ||
                        snapshot.accumulated.size() != names_.size())) {
    wrong.push_back(text(snapshot.thresholds.size(), " thresholds for ", names_.size(), " masks"));
  }
  agree([&] {
    if (wrong.empty()) return;
    throw InvalidArgument(
        text("Pruner: expected the state of the same model and rules, got: ", join(wrong), "."));
  });
  std::vector<int64_t> kept = count_kept(masks);
  set_masks(std::move(masks), std::move(kept), snapshot.thresholds);
  is_pruned_ = snapshot.is_pruned;
  steps_ = snapshot.steps;
  memory_ = std::move(memory);
  for (size_t i = 0; i < names_.size(); ++i) {
    memory_[i].accumulated = snapshot.accumulated[i];
    memory_[i].scores = memory_[i].accumulated > 0 ? memory_[i].scores.clone() : at::Tensor();
    memory_[i].shadow = may_return(i) && has_shadow(i) ? memory_[i].shadow.clone() : at::Tensor();
  }
}

void Pruner::narrow(size_t i, int64_t dim, std::span<const int64_t> indices) {
  if (i >= names_.size() || dim < 0 || dim >= static_cast<int64_t>(shapes_[i].size())) {
    throw InvalidArgument(text("Pruner: expected a parameter and a dimension that exist, got ", i,
                               " and ", dim, "."));
  }
  const auto d = static_cast<size_t>(dim);
  for (const int64_t index : indices) {
    if (index < 0 || index >= shapes_[i][d]) {
      throw InvalidArgument(text("Pruner: expected indices of `", names_[i], "` along dimension ",
                                 dim, " below ", shapes_[i][d], ", got ", index, "."));
    }
  }
  if (ranks_.size > 1) {
    throw InvalidArgument("Pruner: expected narrow() on one process, got several ranks.");
  }
  int64_t inner = 1;
  for (size_t k = d + 1; k < shapes_[i].size(); ++k) inner *= shapes_[i][k];
  const int64_t outer = masks_[i].size() / std::max<int64_t>(inner * shapes_[i][d], 1);
  const auto count = static_cast<int64_t>(indices.size());
  Mask mask(outer * count * inner);
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t j = 0; j < count; ++j) {
      const int64_t from = (o * shapes_[i][d] + indices[static_cast<size_t>(j)]) * inner;
      for (int64_t k = 0; k < inner; ++k)
        mask.set((o * count + j) * inner + k, masks_[i][from + k]);
    }
  }
  const at::Tensor chosen = at::tensor(at::IntArrayRef(indices.data(), indices.size()));
  for (at::Tensor* tensor : {&memory_[i].scores, &memory_[i].shadow}) {
    if (tensor->defined()) *tensor = tensor->index_select(dim, chosen.to(tensor->device()));
  }
  masks_[i] = std::move(mask);
  shapes_[i][d] = count;
  kept_[i] = masks_[i].kept();
  mask_bytes_[i] = at::Tensor();
}

}  // namespace pomona
