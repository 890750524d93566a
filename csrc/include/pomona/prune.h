#pragma once
// Pruning (thesis ch. 3): masks by magnitude, kept while the network is retrained.
//
// The model is never wrapped: a weight stays an ordinary leaf Parameter. The mask lives in the
// gradient first (pruned entries are zeroed, so momentum, decay, clipping and adaptive optimizers
// see the pruned network only) and in the weight after the step, as a backstop.

#include "pomona/export.h"
#include "pomona/live.h"
#include "pomona/mask.h"
#include "pomona/rules.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace pomona {

// How one parameter is pruned. Sparsity is the share of weights that go, in [0, 1).
struct Prune {
  double sparsity = 0.0;
};

// Sums a tensor over all ranks, in place; empty on one process. Magnitudes are summed before
// selection, so every rank computes the same mask and a NaN on one is an error on all.
using AllReduce = std::function<void(at::Tensor&)>;

// One line of report().
struct PruneReport {
  std::string name;
  int64_t size = 0;
  int64_t kept = 0;
  double threshold = 0.0;  // the largest |w| that was pruned when the mask was made; 0 before
};

class POMONA_API Pruner {
 public:
  // Holds names, shapes, rules, masks and counters; never a tensor of the model. Throws
  // InvalidArgument when a sparsity is outside [0, 1) or a name stands twice.
  explicit Pruner(std::vector<Ruled<Prune>> parameters, AllReduce all_reduce = {});

  // Selects by |weight| (or by `scores`, one tensor a parameter) on the first call, zeroes the
  // pruned weights and their first moments, and says whether a mask changed. Later calls check that
  // nothing pruned has come back. All parameters are checked and selected before the first is
  // written. `live` is in the order of names(). Throws InvalidArgument, naming the parameter: NaN
  // or Inf in a weight, wrong shape, revived weights.
  bool step(std::span<const Live> live, std::span<const at::Tensor> scores = {});

  // Zeroes the pruned entries of one gradient: what the hook of parameter i does after each
  // accumulation. Dense of any strides, or sparse over dimension 0 (nn.Embedding(sparse=True)).
  void mask_gradient(size_t i, const at::Tensor& gradient) const;
  // The same for every parameter that has a gradient. Call it after backward() and before clipping.
  void mask_gradients(std::span<const Live> live) const;
  // The backstop after optimizer.step(): zeroes pruned weights (first moments stay zero by
  // themselves).
  void keep(std::span<const Live> live) const;
  // Zeroes the pruned weights of one tensor that follows parameter i, such as an EMA copy.
  void apply_(size_t i, const at::Tensor& tensor) const;
  // Throws InvalidArgument, naming every parameter that has nonzeros under its mask.
  void check(std::span<const Live> live) const;
  // Drops the masks (DSD's re-dense, finalize). With `seed_second_moments`, each reborn entry's
  // second moment becomes the mean over its tensor's survivors, so that an adaptive optimizer's
  // first step is not out of scale.
  void release(std::span<const Live> live, bool seed_second_moments = false);

  bool is_pruned() const { return is_pruned_; }
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<Mask>& masks() const { return masks_; }
  // The mask of parameter i as a bool tensor of its shape: true where a weight is kept.
  at::Tensor keep_mask(size_t i, const at::Device& device) const;
  std::vector<PruneReport> report() const;
  // Of all weights under a rule; 0 when there are none.
  double sparsity() const;

  // Same keys and shapes from construction on: masks are all ones before pruning.
  struct Snapshot {
    bool is_pruned = false;
    std::vector<double> thresholds;
    std::vector<std::pair<std::string, at::Tensor>>
        masks;  // uint8 [dim0, ceil(row / 8)], row-aligned, CPU
  };
  Snapshot state() const;
  // Throws InvalidArgument, listing every name and shape that differs; then nothing has changed.
  void load_state(const Snapshot& snapshot);

 private:
  void check_live(std::span<const Live> live) const;
  void check_index(size_t i, const at::Tensor& tensor) const;
  // masks_[i] as the operator takes it, on the device last asked for.
  const at::Tensor& mask_bytes(size_t i, const at::Device& device) const;
  // REQUIRES: check_live.
  void zero(std::span<const Live> live, bool with_first_moments) const;
  void set_masks(std::vector<Mask> masks, std::vector<double> thresholds);

  std::vector<std::string> names_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<Prune> rules_;
  std::vector<Mask> masks_;
  std::vector<double> thresholds_;
  mutable std::vector<at::Tensor> mask_bytes_;  // a cache
  AllReduce all_reduce_;
  bool is_pruned_ = false;
};

}  // namespace pomona
