#include "pomona/error.h"
#include "pomona/quantize.h"

#include "base/text.h"
#include "quantize/share_weight.h"

#include <ATen/TensorOperators.h>

#include <algorithm>

namespace pomona {

Sharer::Snapshot Sharer::state() const {
  Snapshot snapshot{is_shared_, reduction_, {}};
  for (size_t i = 0; i < names_.size(); ++i) {
    const Clusters& clusters = clusters_[i];
    snapshot.parameters.push_back({names_[i], clusters.codes.clone(), clusters.k, clusters.group,
                                   clusters.has_zero, clusters.squared_error, steps_[i]});
  }
  return snapshot;
}

// The clusters of an entry whose name and shape fit. Throws unless its codes are below k and, where
// all weights share a codebook, each is used.
Sharer::Clusters Sharer::check_entry(size_t i, const Snapshot::Entry& entry) const {
  const at::Tensor codes = entry.codes.to(at::kCPU).contiguous().clone();
  const int64_t most = rules_[i].codes > 0 ? rules_[i].codes : int64_t{1} << rules_[i].bits;
  const int64_t group = group_of(rules_[i], shapes_[i], names_[i]);
  const auto refuse = [&](const char* what, auto expected, int64_t got) {
    throw InvalidArgument(text("Sharer.load_state: expected `", names_[i], "` to have ", expected,
                               what, ", got ", got,
                               ". Make the sharer with the rules that made the state."));
  };
  if (entry.k < (codes.numel() == 0 ? 0 : 1) || entry.k > most) {
    refuse(" codes", text("1 to ", most), entry.k);
  }
  if (entry.steps < 0) refuse(" steps", "0 or more", entry.steps);
  if (entry.group != group) refuse(" weights to a codebook (0: all)", group, entry.group);
  const bool is_below =
      codes.numel() == 0 || codes.max().item<int64_t>() < std::max<int64_t>(entry.k, 1);
  Clusters clusters;
  bool is_whole = is_below;
  if (is_below) {
    clusters = clusters_of(codes, entry.k, group, entry.has_zero);
    const at::Tensor unused = clusters.counts.eq(0).sum();
    is_whole = group > 0 || entry.k == 0 || unused.item<int64_t>() == (entry.has_zero ? 1 : 0);
  }
  if (!is_whole) {
    throw InvalidArgument(text("Sharer.load_state: expected the codes of `", names_[i],
                               "` to be 0 to ", entry.k - 1,
                               ", each used, got others. The state is damaged."));
  }
  clusters.squared_error = entry.squared_error;
  return clusters;
}

// The entry of each parameter. Throws, listing every name and shape that differs.
std::vector<const Sharer::Snapshot::Entry*> Sharer::match_entries(const Snapshot& snapshot) const {
  std::vector<std::string> differences;
  std::vector<const Snapshot::Entry*> entries(names_.size(), nullptr);
  for (const auto& entry : snapshot.parameters) {
    const auto found = std::find(names_.begin(), names_.end(), entry.name);
    if (found == names_.end()) {
      differences.push_back(text("unexpected `", entry.name, "`"));
      continue;
    }
    const auto i = static_cast<size_t>(found - names_.begin());
    entries[i] = &entry;
    const at::IntArrayRef shape(shapes_[i]);
    if (entry.codes.scalar_type() == at::kByte && entry.codes.sizes() == shape) continue;
    differences.push_back(text("`", entry.name, "` ", entry.codes.scalar_type(), " ",
                               entry.codes.sizes(), " instead of Byte ", shape));
  }
  for (size_t i = 0; i < names_.size(); ++i) {
    if (entries[i] == nullptr) differences.push_back(text("missing `", names_[i], "`"));
  }
  if (differences.empty()) return entries;
  throw InvalidArgument(text("Sharer.load_state: expected the codes of this model's parameters, ",
                             "got: ", join(differences), "."));
}

void Sharer::load_state(const Snapshot& snapshot) {
  const auto entries = match_entries(snapshot);
  if (!snapshot.is_shared) return release();
  if (snapshot.reduction != reduction_) {
    const auto name = [](Reduction r) { return r == Reduction::kMean ? "mean" : "sum"; };
    throw InvalidArgument(text("Sharer.load_state: expected reduction \"", name(reduction_),
                               "\" as the sharer was made with, got \"", name(snapshot.reduction),
                               "\"."));
  }
  std::vector<Clusters> loaded;
  for (size_t i = 0; i < names_.size(); ++i) loaded.push_back(check_entry(i, *entries[i]));
  clusters_ = std::move(loaded);
  on_device_ = clusters_;
  pooled_.assign(names_.size(), std::nullopt);
  for (size_t i = 0; i < names_.size(); ++i) steps_[i] = entries[i]->steps;
  is_shared_ = true;
}

}  // namespace pomona
